"""Task models: what makes a plain net trainable and testable (loss, pre-processing, prediction)."""

from visionsparse.tasks.classification import ImageClassifier, ImageNormalizer

__all__ = ["ImageClassifier", "ImageNormalizer"]
