"""Readers, samplers and transforms. Importing this package registers them (it is the registries' location)."""

from visionsparse.datasets import transforms
from visionsparse.datasets.digits import Digits
from visionsparse.datasets.image import read_image, to_rgb
from visionsparse.datasets.imagenet import ImageNet
from visionsparse.datasets.randaugment import RandAugment
from visionsparse.datasets.sampler import EpochSampler, FixedBatches, SampleKey

__all__ = [
    "Digits",
    "EpochSampler",
    "FixedBatches",
    "ImageNet",
    "RandAugment",
    "SampleKey",
    "read_image",
    "to_rgb",
    "transforms",
]
