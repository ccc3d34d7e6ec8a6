from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from visionsparse.config import CONFIGS, check_config, load_config
from visionsparse.datasets.transforms import build_pipeline, to_tensor
from visionsparse.errors import ConfigError
from visionsparse.registry import TRANSFORMS

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))


def run(pipeline, image):
    for transform in build_pipeline(pipeline):
        image = transform(image)
    return image


def test_the_evaluation_protocol_is_pillows_bicubic_short_side_and_centre_crop():
    ours = run([dict(type="Resize", size=32, interpolation="bicubic"), dict(type="CenterCrop", size=28)], NOISE)
    expected = NOISE.resize((48, 32), Image.Resampling.BICUBIC).crop((10, 2, 38, 30))
    assert np.array_equal(np.asarray(ours), np.asarray(expected))


@pytest.mark.parametrize(
    "step",
    [
        dict(type="RandomResizedCrop", size=16, interpolation="bicubic"),
        dict(type="RandomHorizontalFlip"),
        dict(type="RandomAffine", degrees=10, translate=(0.1, 0.1), scale=(0.9, 1.1), interpolation="bilinear"),
        dict(type="ColorJitter", brightness=0.4, contrast=0.4, saturation=0.4),
        dict(type="RandomCrop", size=16, padding=2),
        dict(type="Pad", padding=2),
    ],
    ids=lambda step: step["type"],
)
def test_each_transform_takes_and_gives_a_pil_image(step):
    assert isinstance(run([step], NOISE), Image.Image)


def test_an_unknown_interpolation_names_the_near_miss():
    with pytest.raises(ConfigError, match=r"interpolation: 'bicubik' is not known. Did you mean 'bicubic'"):
        build_pipeline([dict(type="Resize", size=8, interpolation="bicubik")])


def test_a_callable_is_kept():
    assert build_pipeline([len]) == [len]


def test_building_leaves_the_config_as_it_is():
    step = dict(type="Pad", padding=1)
    build_pipeline([step])
    assert step == dict(type="Pad", padding=1)


def test_the_tensor_is_uint8_channels_first():
    tensor = to_tensor(NOISE)
    assert (tensor.dtype, tuple(tensor.shape)) == (torch.uint8, (3, 40, 60))
    assert np.array_equal(tensor.permute(1, 2, 0).numpy(), np.asarray(NOISE))
    assert to_tensor(tensor) is tensor


def test_arguments_of_registered_transforms_are_known_to_the_config_check():
    assert {"size", "interpolation", "scale"} <= TRANSFORMS.get("RandomResizedCrop").argument_names()


@pytest.mark.parametrize("name", ["digits", "imagenet"])
def test_the_base_config_is_data_whose_every_type_and_argument_is_known(name):
    config = load_config(CONFIGS / "_base_" / f"{name}.py")
    check_config(config)
    assert {"train_dataloader", "val_dataloader", "test_dataloader"} == set(config)
    assert config.val_dataloader.dataset == config.test_dataloader.dataset
