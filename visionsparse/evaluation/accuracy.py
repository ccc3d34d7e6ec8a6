"""Classification accuracy and calibration from counts alone.

Kept are a confusion matrix, top-k hits, and per confidence bin the number of images, of hits, and the sum of
confidences; all integers, so that the result depends neither on the order of the images nor on how many processes
share them.

    ECE = sum_b n_b / N * |accuracy_b - confidence_b|,   15 bins ((b-1)/15, b/15], confidence = highest probability

Source: Guo et al., On Calibration of Modern Neural Networks, arXiv 1706.04599. Memory: C * C counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from visionsparse.errors import ConfigError, DataError
from visionsparse.registry import METRICS

NUM_BINS = 15
_CONFIDENCE_UNIT = 2**32  # a confidence as an integer: sums are then exact, whatever their order


@METRICS.register_module()
class ClassificationMetric:
    """Top-k accuracy (percent), expected calibration error (0 to 1), confusion matrix and accuracy per class.

    Args:
        topk: which accuracies to give. By default 1 and 5, where 5 means all classes if there are fewer.
    """

    def __init__(self, topk: Sequence[int] | None = None) -> None:
        if topk is not None and (not topk or min(topk) < 1):
            raise ConfigError(f"topk is {topk}, expected numbers of 1 or more, such as (1, 5).")
        self.topk = tuple(topk or (1, 5))
        self._refuse_large_topk = topk is not None
        self.dataset_meta: dict[str, Any] | None = None  # set by mmengine's Evaluator
        self._counts: _Counts | None = None
        self._total: _Counts | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """What `evaluate` returns."""
        return (*(f"top{k}" for k in self.topk), "ece", "num_images", "num_skipped")

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Counts the predictions of a batch. Arguments and errors as of `rows` and `add`; `data_batch` is not used."""
        self.add(self.rows(data_samples))

    def rows(self, data_samples: Sequence[dict[str, Any]]) -> dict[str, np.ndarray]:
        """What the metric needs to know of each image, as columns that can be kept in a file.

        Args:
            data_samples: one dict an image: `scores` (num_classes,) probabilities and `label`, an int; with a true
                `skipped`, another image stood for a corrupt one, and all that counts is that.

        Returns: `label`, `predicted` (the class with the highest score; of equal ones the lowest), `place` (of the
            label among the classes by score, from 0), `confidence` (the highest score), `num_classes` and `skipped`.

        Raises:
            DataError: a label out of range, or none.
        """
        scores = torch.stack([sample["scores"] for sample in data_samples]).float().cpu()
        labels = [sample["label"] for sample in data_samples]
        num_classes = scores.shape[1]
        for label in labels:
            if label is None or not 0 <= label < num_classes:
                raise DataError(
                    f"label {label} is out of range: the model has {num_classes} classes (0 to {num_classes - 1})."
                )
        # stable: among equal scores the lower class wins, here as in any other batch
        order = scores.sort(dim=1, descending=True, stable=True).indices
        place = (order == torch.tensor(labels)[:, None]).int().argmax(dim=1)
        return {
            "label": np.array(labels, np.int32),
            "predicted": order[:, 0].numpy().astype(np.int32),
            "place": place.numpy().astype(np.int32),
            "confidence": scores.amax(dim=1).numpy(),
            "num_classes": np.full(len(labels), num_classes, np.int32),
            "skipped": np.array([bool(sample.get("skipped")) for sample in data_samples]),
        }

    def add(self, rows: Mapping[str, np.ndarray]) -> None:
        """Counts rows, any number in any order.

        Raises:
            ConfigError: a `topk` of more classes than there are.
        """
        if not len(rows["label"]):
            return
        num_classes = int(rows["num_classes"][0])
        if self._counts is None:
            if self._refuse_large_topk and max(self.topk) > num_classes:
                raise ConfigError(f"topk asks for top-{max(self.topk)}, but there are {num_classes} classes: lower it.")
            self._counts = _Counts(num_classes, len(self.topk))
        skipped = np.asarray(rows["skipped"])
        self._counts.skipped += int(skipped.sum())
        names = ("label", "predicted", "place", "confidence")
        label, predicted, place, confidence = (torch.tensor(rows[name][~skipped]) for name in names)
        self._counts.add(label.long(), predicted.long(), place.long(), confidence.double(), self.topk)

    def evaluate(self, size: int) -> dict[str, float]:
        """The metrics over all processes, and a fresh start.

        Args:
            size: images in the data set; every one must have been counted, or skipped, once.

        Raises:
            DataError: another number of images was counted, or all were skipped.
        """
        total = _sum_over_processes(self._counts, len(self.topk))
        self._counts = None
        counted, skipped = (0, 0) if total is None else (int(total.confusion.sum()), int(total.skipped))
        if total is None or counted + skipped != size:
            raise DataError(
                f"counted {counted + skipped} images of a data set of {size}: each must be evaluated once. "
                "Use a sampler that neither pads nor drops, and drop_last=False."
            )
        if not counted:
            raise DataError(f"all {size} images of the data set were skipped: none can be read.")
        self._total = total
        accuracies = {f"top{k}": 100 * int(hits) / counted for k, hits in zip(self.topk, total.hits, strict=True)}
        return {**accuracies, "ece": total.calibration_error(), "num_images": counted, "num_skipped": skipped}

    def details(self) -> dict[str, Any]:
        """What the last `evaluate` knows beyond its numbers: `confusion_matrix` (row = true class) and `per_class`."""
        if self._total is None:
            raise RuntimeError("details() before evaluate()")
        confusion = self._total.confusion
        meta = self.dataset_meta or {}
        classes = list(meta.get("classes") or map(str, range(len(confusion))))
        names = list(meta.get("class_names") or classes)
        images, right = confusion.sum(dim=1).tolist(), confusion.diagonal().tolist()
        per_class = [
            {
                "class": classes[c],
                "class_name": names[c],
                "num_images": images[c],
                "top1": 100 * right[c] / images[c] if images[c] else None,
            }
            for c in range(len(confusion))
        ]
        return {"per_class": per_class, "confusion_matrix": confusion.tolist()}


class _Counts:
    """The integers that everything is computed from, in one flat tensor that processes can add up."""

    def __init__(self, num_classes: int, num_topk: int) -> None:
        sizes = [num_classes**2, num_topk, NUM_BINS, NUM_BINS, NUM_BINS, 1]
        self.flat = torch.zeros(sum(sizes), dtype=torch.int64)
        confusion, self.hits, self.bin_images, self.bin_hits, self.bin_confidence, self.skipped = self.flat.split(sizes)
        self.confusion = confusion.view(num_classes, num_classes)

    def add(self, label: Tensor, predicted: Tensor, place: Tensor, confidence: Tensor, topk: Sequence[int]) -> None:
        ones = torch.ones_like(label)
        self.confusion.view(-1).scatter_add_(0, label * len(self.confusion) + predicted, ones)
        for index, k in enumerate(topk):
            self.hits[index] += (place < k).sum()
        bins = (confidence * NUM_BINS).ceil().long().sub(1).clamp(0, NUM_BINS - 1)
        self.bin_images.scatter_add_(0, bins, ones)
        self.bin_hits.scatter_add_(0, bins, (place == 0).long())
        self.bin_confidence.scatter_add_(0, bins, (confidence * _CONFIDENCE_UNIT).round().long())

    def calibration_error(self) -> float:
        gaps = (self.bin_hits - self.bin_confidence.double() / _CONFIDENCE_UNIT).abs()
        return float(gaps.sum() / self.bin_images.sum())


def _sum_over_processes(counts: _Counts | None, num_topk: int) -> _Counts | None:
    if not (dist.is_available() and dist.is_initialized()):
        return counts
    device = torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")
    # A process may have seen no image at all and so not know how many classes there are.
    num_classes = torch.tensor(0 if counts is None else len(counts.confusion), device=device)
    dist.all_reduce(num_classes, dist.ReduceOp.MAX)
    if int(num_classes) == 0:
        return None
    total = _Counts(int(num_classes), num_topk)
    flat = (total if counts is None else counts).flat.to(device)
    dist.all_reduce(flat)
    total.flat.copy_(flat)
    return total
