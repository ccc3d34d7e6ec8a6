"""Task models: what makes a plain net trainable and testable (loss, pre-processing, prediction)."""

from visionsparse.tasks.batch_augment import Mixup, RandomErasing
from visionsparse.tasks.classification import ImageClassifier, ImageNormalizer

__all__ = ["ImageClassifier", "ImageNormalizer", "Mixup", "RandomErasing"]
