from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from visionsparse.datasets import EpochSampler, ImageNet, SampleKey
from visionsparse.datasets.seeding import sample_seed, seeded


def draws():
    return (torch.rand(2).tolist(), np.random.rand(2).tolist(), random.random())


def draw_into_image(image):
    """A transform that shows what each of the three generators gives it."""
    shades = [torch.randint(256, ()).item(), np.random.randint(256), random.randrange(256)]
    return torch.tensor(shades, dtype=torch.uint8).view(3, 1, 1)


def dataset_of(root, seed=0):
    crop = dict(type="RandomResizedCrop", size=8, interpolation="bicubic")
    return ImageNet(root, pipeline=[crop, dict(type="RandomHorizontalFlip")], seed=seed)


def by_key(dataset, sampler, num_workers, persistent_workers=False):
    loader = DataLoader(dataset, 4, sampler=sampler, num_workers=num_workers, persistent_workers=persistent_workers)
    samples = {}
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        keys = list(sampler)
        inputs = torch.cat([batch["inputs"] for batch in loader])
        samples.update(zip(keys, inputs, strict=True))
    return samples


def test_unlike_keys_give_unlike_seeds():
    seeds = [sample_seed(*key) for key in itertools.product(range(4), repeat=4)]
    assert len(set(seeds)) == 4**4
    assert max(seeds) < 2**64


def test_draws_inside_depend_on_the_seed_only_and_leave_the_outside_alone():
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    expected = draws()
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    with seeded(2**63 + 5):
        first = draws()
    assert draws() == expected
    with seeded(2**63 + 5):
        assert draws() == first
    with seeded(6):
        assert draws() != first


def test_states_come_back_after_an_error():
    state = torch.get_rng_state()
    with pytest.raises(KeyError), seeded(1):
        raise KeyError
    assert torch.equal(torch.get_rng_state(), state)


def test_all_three_generators_are_seeded_per_sample(noise_folder):
    dataset = ImageNet(noise_folder, pipeline=[draw_into_image])
    samples = [dataset[SampleKey(*key)]["inputs"] for key in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]]
    for channel in range(3):
        assert len({int(sample[channel]) for sample in samples}) > 1
    assert torch.equal(dataset[0]["inputs"], samples[0])


@pytest.mark.parametrize("other", [SampleKey(3, 1, 0), SampleKey(3, 0, 1)], ids=["epoch", "repeat"])
def test_another_epoch_or_repeat_of_an_image_is_augmented_otherwise(noise_folder, other):
    dataset = dataset_of(noise_folder)
    assert not torch.equal(dataset[SampleKey(3, 0, 0)]["inputs"], dataset[other]["inputs"])


def test_another_seed_augments_otherwise(noise_folder):
    assert not torch.equal(dataset_of(noise_folder)[0]["inputs"], dataset_of(noise_folder, seed=1)[0]["inputs"])


def test_augmentation_depends_neither_on_workers_nor_on_order(noise_folder):
    dataset = dataset_of(noise_folder)
    alone = by_key(dataset, EpochSampler(dataset, repeats=2), num_workers=0)
    one = by_key(dataset, EpochSampler(dataset, repeats=2), num_workers=1)
    two = by_key(dataset, EpochSampler(dataset, repeats=2), num_workers=2, persistent_workers=True)
    assert len(alone) == 24
    assert alone.keys() == one.keys() == two.keys()
    backwards = {key: dataset[key]["inputs"] for key in reversed(alone)}
    for key, expected in alone.items():
        assert torch.equal(expected, one[key])
        assert torch.equal(expected, two[key])
        assert torch.equal(expected, backwards[key])


def test_a_resumed_epoch_gives_the_rest_of_the_very_same_batches(noise_folder):
    dataset = dataset_of(noise_folder)
    sampler = EpochSampler(dataset)
    loader = DataLoader(dataset, 4, sampler=sampler)
    sampler.set_epoch(5)
    whole = [batch["inputs"] for batch in loader]
    sampler.set_epoch(0)
    sampler.set_epoch(5)
    sampler.start = 4
    rest = [batch["inputs"] for batch in loader]
    assert len(rest) == 2
    assert all(map(torch.equal, rest, whole[1:]))
