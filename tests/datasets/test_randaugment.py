from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageOps
from timm.data import create_transform

from visionsparse.datasets.randaugment import RandAugment
from visionsparse.datasets.seeding import seeded
from visionsparse.errors import ConfigError

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))


def augmented(transform, seed: int) -> np.ndarray:
    with seeded(seed):
        return np.asarray(transform(NOISE))


def test_it_draws_and_computes_what_timms_create_transform_does() -> None:
    """The arguments of the published recipe, its colour jitter of 0.4 among them."""
    published = create_transform(
        224,
        is_training=True,
        color_jitter=0.4,
        auto_augment="rand-m9-mstd0.5-inc1",
        interpolation="bicubic",
        re_prob=0.25,
    ).transforms
    names = [type(step).__name__ for step in published]
    assert "RandAugment" in names and "ColorJitter" not in names
    ours, theirs = RandAugment("rand-m9-mstd0.5-inc1"), published[names.index("RandAugment")]

    for seed in range(64, 164):  # none of these draws posterize with 0 bits
        assert np.array_equal(augmented(ours, seed), augmented(theirs, seed))


def test_posterize_keeps_a_bit_where_timm_asks_for_none() -> None:
    full_strength = RandAugment("rand-m10-inc1-p1")
    (posterize,) = (op for op in full_strength.augment.ops if op.name == "PosterizeIncreasing")
    assert posterize.level_fn(10, {}) == (0,)

    assert np.array_equal(augmented(posterize, 0), np.asarray(ImageOps.posterize(NOISE, 1)))


@pytest.mark.parametrize("seed", [22, 63, 184])
def test_the_published_policy_survives_seeds_where_timm_asks_for_no_bit(seed: int) -> None:
    assert augmented(RandAugment("rand-m9-mstd0.5-inc1"), seed).shape == (40, 60, 3)


def test_the_seed_decides_the_augmentation() -> None:
    transform = RandAugment()

    assert np.array_equal(augmented(transform, 7), augmented(transform, 7))
    assert len({augmented(transform, seed).tobytes() for seed in range(20)}) > 10


@pytest.mark.parametrize("policy", ["rand-m9-mstdx", "rand-x9", "augmix-m3", "rand-m9_inc1", ""])
def test_a_policy_that_is_not_known_is_refused(policy: str) -> None:
    with pytest.raises(ConfigError, match=f"policy '{policy}' is not known, expected one like"):
        RandAugment(policy)


def test_an_interpolation_that_is_not_known_is_refused_with_the_near_miss() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'bicubic'"):
        RandAugment(interpolation="bicubik")
