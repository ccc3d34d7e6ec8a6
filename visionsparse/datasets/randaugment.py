"""timm's RandAugment: per image some operations (two by default) drawn from fifteen, each skipped half the time.

It draws from `random` and numpy, which the data set seeds per sample. In timm's `create_transform`, which the
published recipes use, it takes the place of colour jitter.

Source: Cubuk et al., arXiv 1909.13719, in the form of timm (magnitude with noise, operations that grow with it).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageOps

from visionsparse.datasets.transforms import interpolation_mode
from visionsparse.errors import ConfigError
from visionsparse.registry import TRANSFORMS

# timm reads the same words, and ignores or asserts what it does not know
_POLICY = re.compile(r"rand(-(m\d+|n\d+|p\d+(\.\d+)?|mstd\d+(\.\d+)?|mmax\d+|inc[01]|t\w+))*")


@TRANSFORMS.register_module()
class RandAugment:
    """timm's RandAugment of a PIL image.

    Args:
        policy: timm's words for it: "rand-m9-mstd0.5-inc1" is magnitude 9 of 10 with normal noise of 0.5, operations
            that grow with the magnitude; n3 three of them instead of two, p0.7 each applied with probability 0.7.
        fill: the colour of pixels that come from outside of the image, 0 to 255; ImageNet's mean.
        interpolation: of rotation, shear and translation, such as "bicubic".

    Raises:
        ConfigError: a policy or an interpolation that is not known.
    """

    def __init__(
        self,
        policy: str = "rand-m9-mstd0.5-inc1",
        fill: Sequence[int] = (124, 116, 104),
        interpolation: str = "bicubic",
    ) -> None:
        if not _POLICY.fullmatch(policy):
            raise ConfigError(f"RandAugment: policy {policy!r} is not known, expected one like 'rand-m9-mstd0.5-inc1'.")
        from timm.data import auto_augment  # seconds
        from timm.data.transforms import str_to_pil_interp

        resample = str_to_pil_interp(interpolation_mode(interpolation).value)
        self.augment = auto_augment.rand_augment_transform(policy, dict(img_mean=tuple(fill), interpolation=resample))
        for operation in self.augment.ops:
            if operation.aug_fn is auto_augment.posterize:
                operation.aug_fn = _posterize

    def __call__(self, image: Image.Image) -> Image.Image:
        """An augmented copy, or the image itself."""
        return self.augment(image)


def _posterize(image: Image.Image, bits: int, **_: Any) -> Image.Image:
    """Pillow refuses 0 bits, which timm asks for at magnitude 10: with the published policy once in some 500 images."""
    return ImageOps.posterize(image, max(bits, 1)) if bits < 8 else image
