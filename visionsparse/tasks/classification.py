"""Image classification: a net that gives logits, trained by cross-entropy, read as probabilities.

    loss = -sum_c y_c log softmax(logits)_c,   y = (1 - e) onehot(label) + e / C,   e = label_smoothing

Pixels travel as uint8 and become numbers on the device: a quarter of the bytes, and nothing for the workers to do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import BaseDataPreprocessor, BaseModel
from torch import Tensor, nn

from visionsparse.errors import ConfigError, DataError
from visionsparse.registry import MODELS

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@MODELS.register_module()
class ImageNormalizer(BaseDataPreprocessor):
    """Moves a batch to the device and normalises its images there: `(pixels / 255 - mean) / std`.

    Args:
        mean, std: one number a channel, for pixels in [0, 1].
    """

    def __init__(self, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD) -> None:
        super().__init__()
        # Not persistent: the config says them, and a checkpoint holds the net's weights only.
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, data: dict[str, Any], training: bool = False) -> dict[str, Any]:
        """Normalises `data["inputs"]`, (B, C, height, width) uint8 or float in [0, 1]; gives float32."""
        data = self.cast_data(data)
        images = data["inputs"]
        images = images.float() / 255 if images.dtype == torch.uint8 else images.float()
        return {**data, "inputs": (images - self.mean) / self.std}


@MODELS.register_module()
class ImageClassifier(BaseModel):
    """A classification net as mmengine's Runner trains and tests it.

    Args:
        backbone: the net, or its config (`dict(type="biformer_tiny", num_classes=10)`); gives (B, num_classes) logits.
        label_smoothing: share of the target that is spread evenly over the classes.
        data_preprocessor: an `ImageNormalizer` or its config; ImageNet's mean and standard deviation by default.
        batch_augments: what changes a training batch and its targets once they are normalised, in this order: `Mixup`,
            `RandomErasing`, their configs, or any callable (images, targets) -> (images, targets).
    """

    def __init__(
        self,
        backbone: dict[str, Any] | nn.Module,
        label_smoothing: float = 0.0,
        data_preprocessor: dict[str, Any] | nn.Module | None = None,
        batch_augments: Sequence[dict[str, Any] | Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = (),
    ) -> None:
        super().__init__(data_preprocessor=data_preprocessor or dict(type="visionsparse.ImageNormalizer"))
        self.backbone = backbone if isinstance(backbone, nn.Module) else MODELS.build(backbone)
        if not 0 <= label_smoothing < 1:
            raise ConfigError(f"label_smoothing is {label_smoothing}, expected 0 or more and less than 1.")
        self.label_smoothing = label_smoothing
        self.batch_augments = [
            MODELS.build(augment) if isinstance(augment, dict) else augment for augment in batch_augments
        ]

    @property
    def num_classes(self) -> int | None:
        """How many classes the net tells apart, where it says so."""
        return getattr(self.backbone, "num_classes", None)

    def init_weights(self) -> None:
        """Nothing: nets of the zoo initialise themselves when built."""

    def forward(
        self,
        inputs: Tensor,
        label: Tensor | None = None,
        index: Tensor | None = None,
        skipped: Tensor | None = None,
        mode: str = "tensor",
    ) -> Tensor | dict[str, Tensor] | list[dict[str, Any]]:
        """Logits, losses or predictions of a batch.

        Args:
            inputs: (B, C, height, width) float, normalised.
            label: (B,) int64; needed for `mode="loss"`.
            index: (B,) int64, which samples of the data set these are.
            skipped: (B,) int64, 1 where another image stands for a corrupt one; predictions pass it on.
            mode: "tensor", "loss" or "predict".

        Returns: (B, num_classes) logits; or `{"loss": scalar}`; or one dict an image: `scores`, (num_classes,) float32
            softmax probabilities on the CPU, `label` and `index`, ints or None, and `skipped`, a bool.

        Raises:
            DataError: a label that the net has no class for (seen on the CPU only: on a GPU looking would stall it).
        """
        if mode == "loss":
            return {"loss": self._loss(inputs, label)}
        logits = self.backbone(inputs)
        if mode == "tensor":
            return logits
        scores = logits.float().softmax(dim=1).cpu()
        labels = [None] * len(scores) if label is None else label.tolist()
        indices = [None] * len(scores) if index is None else index.tolist()
        skips = [False] * len(scores) if skipped is None else skipped.bool().tolist()
        return [
            {"scores": row, "label": label, "index": index, "skipped": skip}
            for row, label, index, skip in zip(scores, labels, indices, skips, strict=True)
        ]

    def _loss(self, inputs: Tensor, label: Tensor | None) -> Tensor:
        if label is None:
            raise DataError("mode='loss' needs labels, got none: give label, (B,) int64.")
        target = label
        if self.training and self.batch_augments:
            inputs, target = self.augment(inputs, label)
        logits = self.backbone(inputs)
        if target is not label:
            return F.cross_entropy(logits.float(), target)
        check_labels(label, logits.shape[1])
        return F.cross_entropy(logits.float(), label, label_smoothing=self.label_smoothing)

    def augment(self, inputs: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """What `batch_augments` make of normalised images and labels: (images, (B, num_classes) shares)."""
        inputs, target = inputs.clone(), self._soft_targets(label)  # augments work in place
        for augment in self.batch_augments:
            inputs, target = augment(inputs, target)
        return inputs, target

    def _soft_targets(self, label: Tensor) -> Tensor:
        """(B, num_classes) float32 probabilities, smoothed."""
        if self.num_classes is None:
            raise ConfigError("batch_augments need a backbone with num_classes, which says how many classes there are.")
        check_labels(label, self.num_classes)
        return F.one_hot(label, self.num_classes) * (1 - self.label_smoothing) + self.label_smoothing / self.num_classes


def check_labels(label: Tensor, num_classes: int) -> None:
    """Refuses labels outside of 0 to num_classes - 1.

    Raises:
        DataError: names the first such label and the number of classes.
    """
    if label.device.type != "cpu":
        return
    wrong = label[(label < 0) | (label >= num_classes)]
    if len(wrong):
        raise DataError(
            f"label {int(wrong[0])} is out of range: the model has {num_classes} classes (0 to {num_classes - 1}). "
            "Set the model's num_classes to the number of classes of the data."
        )
