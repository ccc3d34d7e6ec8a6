"""Augmentation of a normalised training batch on its device: random erasing, then Mixup or CutMix.

    Mixup:   x_i <- l x_i + (1 - l) x_j,              y_i <- l y_i + (1 - l) y_j,   l ~ Beta(a, a)
    CutMix:  x_i <- x_j inside a box of share 1 - l,  y as above with l the share that is left of x_i

with j = B - 1 - i and one l a batch. Each takes and gives (images, targets): (B, C, height, width) float and
(B, num_classes) probabilities. They draw from `random`, numpy and torch, which the engine seeds before each iteration
by its number, so that a resumed run draws the same.

Sources: Zhang et al., arXiv 1710.09412; Yun et al., arXiv 1905.04899; Zhong et al., arXiv 1708.04896; the draws are
timm's, number by number.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from visionsparse.errors import ConfigError
from visionsparse.registry import MODELS


@MODELS.register_module()
class Mixup:
    """Mixup and CutMix of a batch with itself in reverse order; of an odd batch the middle image meets itself.

    Args:
        mixup_alpha, cutmix_alpha: parameter of the beta distribution of each; 0 turns that one off.
        switch_prob: probability of CutMix where both are on.
        prob: probability that a batch is mixed at all.

    Raises:
        ConfigError: both are off, or a value out of range.
    """

    def __init__(
        self, mixup_alpha: float = 0.8, cutmix_alpha: float = 1.0, switch_prob: float = 0.5, prob: float = 1.0
    ) -> None:
        if min(mixup_alpha, cutmix_alpha) < 0 or mixup_alpha == cutmix_alpha == 0:
            raise ConfigError(
                f"Mixup: mixup_alpha is {mixup_alpha}, cutmix_alpha {cutmix_alpha}: expected one above 0, none below."
            )
        _check_probability("Mixup", "switch_prob", switch_prob)
        _check_probability("Mixup", "prob", prob)
        self.mixup_alpha = mixup_alpha
        self.cutmix_alpha = cutmix_alpha
        self.switch_prob = switch_prob
        self.prob = prob

    def __call__(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Mixed images and targets; the images are changed in place."""
        if np.random.rand() >= self.prob:
            return images, targets
        both = self.mixup_alpha > 0 and self.cutmix_alpha > 0
        is_cutmix = np.random.rand() < self.switch_prob if both else self.cutmix_alpha > 0
        alpha = self.cutmix_alpha if is_cutmix else self.mixup_alpha
        share = float(np.random.beta(alpha, alpha))
        if is_cutmix:
            from timm.data.mixup import cutmix_bbox_and_lam  # seconds

            (top, bottom, left, right), share = cutmix_bbox_and_lam(images.shape, share)
            images[:, :, top:bottom, left:right] = images.flip(0)[:, :, top:bottom, left:right]
        else:
            partners = images.flip(0).mul_(1 - share)
            images.mul_(share).add_(partners)
        return images, targets * share + targets.flip(0) * (1 - share)


@MODELS.register_module()
class RandomErasing:
    """timm's random erasing: in some images a rectangle is filled with noise.

    Args:
        probability: of an image to be erased.
        mode: "pixel" fills with normal noise per pixel, "rand" with one such colour, "const" with the mean.
        max_count: rectangles at most; they share the area, which is 2 % to a third of the image.

    Raises:
        ConfigError: a mode that is not known, or a value out of range.
    """

    def __init__(self, probability: float = 0.25, mode: str = "pixel", max_count: int = 1) -> None:
        if mode not in ("pixel", "rand", "const"):
            raise ConfigError(f"RandomErasing: mode is {mode!r}, expected 'pixel', 'rand' or 'const'.")
        _check_probability("RandomErasing", "probability", probability)
        if max_count < 1:
            raise ConfigError(f"RandomErasing: max_count is {max_count}, expected 1 or more.")
        self.arguments = dict(probability=probability, mode=mode, max_count=max_count)

    def __call__(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Erased images, changed in place, and the targets as they are."""
        from timm.data.random_erasing import RandomErasing as Erase  # seconds, where it is only tested

        return Erase(**self.arguments, device=images.device)(images), targets


def _check_probability(name: str, argument: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ConfigError(f"{name}: {argument} is {value}, expected a probability, 0 to 1.")
