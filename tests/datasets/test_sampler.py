from __future__ import annotations

import pytest

from visionsparse.datasets import EpochSampler, FixedBatches, SampleKey
from visionsparse.errors import ConfigError


def sampler_of(size, rank=0, world_size=1, **kwargs):
    sampler = EpochSampler(range(size), **kwargs)
    sampler.rank, sampler.world_size = rank, world_size
    return sampler


def global_order(size, world_size, **kwargs):
    """Keys in the order that the processes use them up together."""
    shares = [list(sampler_of(size, rank, world_size, **kwargs)) for rank in range(world_size)]
    return [key for step in zip(*shares, strict=True) for key in step]


def test_an_epoch_is_a_permutation():
    keys = list(sampler_of(20))
    assert sorted(key.index for key in keys) == list(range(20))
    assert {(key.epoch, key.repeat) for key in keys} == {(0, 0)}


def test_the_order_depends_on_seed_and_epoch_and_on_nothing_else():
    first, again, other_seed = sampler_of(20, seed=1), sampler_of(20, seed=1), sampler_of(20, seed=2)
    order = [key.index for key in first]
    assert order == [key.index for key in again]
    assert order != [key.index for key in other_seed]
    first.set_epoch(3)
    again.set_epoch(1)
    list(again)
    again.set_epoch(3)
    assert list(first) == list(again)
    assert {key.epoch for key in first} == {3}
    assert [key.index for key in first] != order


def test_unshuffled_is_the_data_sets_order_in_every_epoch():
    sampler = sampler_of(5, shuffle=False)
    sampler.set_epoch(2)
    assert [key.index for key in sampler] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_processes_together_follow_the_order_of_one(world_size):
    together = global_order(24, world_size)
    assert together == list(sampler_of(24))


@pytest.mark.parametrize(("size", "world_size"), [(10, 4), (2, 5), (9, 3)])
def test_rounding_up_gives_every_process_as_many(size, world_size):
    shares = [list(sampler_of(size, rank, world_size)) for rank in range(world_size)]
    expected = -(-size // world_size)
    assert [len(share) for share in shares] == [expected] * world_size
    assert len(sampler_of(size, 0, world_size)) == expected
    assert {key.index for share in shares for key in share} == set(range(size))


def test_without_rounding_up_every_sample_comes_once():
    shares = [list(sampler_of(10, rank, 4, shuffle=False, round_up=False)) for rank in range(4)]
    assert sorted(key.index for share in shares for key in share) == list(range(10))
    assert [len(share) for share in shares] == [3, 3, 2, 2]
    assert [len(sampler_of(10, rank, 4, round_up=False)) for rank in range(4)] == [3, 3, 2, 2]


def test_repeats_have_numbers_of_their_own_and_the_epoch_keeps_its_length():
    keys = list(sampler_of(12, repeats=3))
    assert len(keys) == 12
    assert len(set(keys)) == 12
    assert [key.repeat for key in keys] == [0, 1, 2] * 4
    assert len({key.index for key in keys}) == 4


def test_repeats_that_do_not_divide_the_length_are_cut_short():
    assert [key.repeat for key in sampler_of(5, repeats=3)] == [0, 1, 2, 0, 1]


@pytest.mark.parametrize("world_size", [1, 2])
def test_resuming_gives_exactly_the_rest_of_the_epoch(world_size):
    whole = global_order(16, world_size)
    shares = []
    for rank in range(world_size):
        sampler = sampler_of(16, rank, world_size)
        sampler.set_epoch(0)
        sampler.start = 6
        sampler.set_epoch(0)  # the Runner's hook says the epoch again
        shares.append(list(sampler))
        assert len(sampler) == 16 // world_size
    assert [key for step in zip(*shares, strict=True) for key in step] == whole[6:]


def test_a_run_can_be_resumed_on_another_number_of_processes():
    sampler = sampler_of(16)
    sampler.start = 8
    assert list(sampler) == global_order(16, 4)[8:]


def test_the_next_epoch_starts_at_its_beginning():
    sampler = sampler_of(8)
    sampler.start = 8
    assert list(sampler) == []
    sampler.set_epoch(1)
    assert sampler.start == 0
    assert len(list(sampler)) == 8


def test_a_seed_of_none_is_drawn():
    assert isinstance(sampler_of(3, seed=None).seed, int)


def test_no_repeats_is_refused():
    with pytest.raises(ConfigError, match=r"sampler\.repeats: got 0, expected 1 or more"):
        sampler_of(3, repeats=0)


def test_a_key_defaults_to_the_first_epoch():
    assert SampleKey(5) == (5, 0, 0)


@pytest.mark.parametrize("start", [4, 8, 10])
def test_resuming_in_the_middle_rounds_up_with_the_epochs_first_keys_as_ever(start):
    def share(rank, start):
        sampler = sampler_of(9, rank, 2)
        sampler.start = start
        return list(sampler)

    for rank in (0, 1):
        assert share(rank, start) == share(rank, 0)[start // 2 :]


@pytest.mark.parametrize("processes", [1, 2, 3, 5])
def test_fixed_batches_are_the_same_on_any_number_of_processes(monkeypatch, processes):
    sampler = EpochSampler(range(22), shuffle=True)
    batches = []
    for rank in range(processes):
        monkeypatch.setattr("visionsparse.datasets.sampler.get_dist_info", lambda rank=rank: (rank, processes))
        batches += list(FixedBatches(sampler, batch_size=5))

    assert sorted(batches) == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11, 12, 13, 14], [15, 16, 17, 18, 19], [20, 21]]


def test_fixed_batches_can_be_told_which():
    batches = FixedBatches(EpochSampler(range(22)), batch_size=5)
    batches.numbers = [4, 1]

    assert len(batches) == 2
    assert list(batches) == [[20, 21], [5, 6, 7, 8, 9]]
