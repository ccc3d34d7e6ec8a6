import json
import os

import numpy as np
import pytest
import torch

from visionsparse.errors import DataError, InputError
from visionsparse.parts import MAX_ROWS, Parts, digest, parts_folder, remove_parts, weights_digest

JOB = {"checkpoint": "a", "data": "b"}


def rows(part, number=1):
    return [{"index": np.arange(3) + 3 * part}] * number


def begun(folder, num_samples=12, batch_size=3, job=JOB):
    parts = Parts(folder, num_samples, batch_size)
    return parts, parts.begin(job)


@pytest.mark.parametrize("num_samples", [0, 1, 7, 96, 97, 5000, 10**6, 10**9])
@pytest.mark.parametrize("batch_size", [1, 32, 10**5])
def test_every_batch_is_in_one_part_and_a_part_is_never_large(tmp_path, num_samples, batch_size):
    parts = Parts(tmp_path, num_samples, batch_size)

    last = len(parts) - 1
    neighbours = [part for part in (0, 1, 2, last // 2, last - 1) if 0 <= part < last]
    assert all(parts.batches(part).stop == parts.batches(part + 1).start for part in neighbours)
    assert num_samples == 0 or (parts.batches(0).start, parts.batches(last).stop) == (0, -(-num_samples // batch_size))
    assert parts.batches_a_part * batch_size <= max(MAX_ROWS, batch_size)


def test_what_was_written_is_read_in_order(tmp_path):
    parts, todo = begun(tmp_path / "parts")
    assert todo == [0, 1, 2, 3]
    for part in (2, 0, 3, 1):
        parts.write(part, rows(part))

    read = [index for batch in parts.read() for index in batch["index"].to_pylist()]

    assert read == list(range(12))


def test_finished_parts_are_not_to_do_again_and_debris_of_a_kill_is_swept(tmp_path):
    parts, _ = begun(tmp_path / "parts")
    parts.write(1, rows(1))
    debris = tmp_path / "parts/.000002.parquet.abcd.visionsparse-tmp"
    debris.write_bytes(b"half")

    again, todo = begun(tmp_path / "parts")

    assert todo == [0, 2, 3]
    assert again.num_finished == 1
    assert not debris.exists()


def test_finished_parts_of_another_job_are_refused_and_what_differs_is_named(tmp_path):
    parts, _ = begun(tmp_path / "parts")
    parts.write(1, rows(1))

    with pytest.raises(InputError, match=r"parts: has finished parts of another job \(checkpoint differs\)\. Remove"):
        begun(tmp_path / "parts", job={**JOB, "checkpoint": "other"})
    with pytest.raises(InputError, match=r"\(data and batches differ\)"):
        begun(tmp_path / "parts", num_samples=15, job={**JOB, "data": "more"})
    assert begun(tmp_path / "parts")[1] == [0, 2, 3]


def test_a_folder_in_which_nothing_is_finished_goes_to_the_next_job(tmp_path):
    begun(tmp_path / "parts")

    _, todo = begun(tmp_path / "parts", job={"checkpoint": "other"})

    assert todo == [0, 1, 2, 3]
    assert json.loads((tmp_path / "parts/job.json").read_text())["checkpoint"] == "other"


def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("important")

    with pytest.raises(InputError, match=r"holds thesis\.tex and no job\.json"):
        begun(tmp_path)
    assert os.listdir(tmp_path) == ["thesis.tex"]


def test_a_place_that_can_not_be_written_is_refused_before_anything_is_computed(tmp_path):
    (tmp_path / "file").touch()

    with pytest.raises(InputError, match="file/parts: can't be written"):
        begun(tmp_path / "file/parts")


def test_a_missing_or_broken_part_is_named(tmp_path):
    parts, _ = begun(tmp_path / "parts", num_samples=6)
    parts.write(0, rows(0))
    with pytest.raises(DataError, match=r"000001\.parquet: this part is missing\. Is .*parts on a file system"):
        list(parts.read())

    parts.write(1, rows(1))
    whole = (tmp_path / "parts/000001.parquet").read_bytes()
    (tmp_path / "parts/000001.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"000001\.parquet: broken .*Remove the file"):
        list(parts.read())


def test_removing_leaves_nothing_and_of_nothing_is_no_error(tmp_path):
    folder = parts_folder(tmp_path / "results.json")
    begun(folder)

    remove_parts(folder)
    remove_parts(folder)

    assert list(tmp_path.iterdir()) == []


def test_digests_tell_apart_what_differs_in_a_bit_a_name_a_shape_or_a_border():
    base = {"a": torch.zeros(2, 3), "n": torch.tensor(1)}
    others = [
        {"a": torch.zeros(3, 2), "n": torch.tensor(1)},
        {"b": torch.zeros(2, 3), "n": torch.tensor(1)},
        {"a": torch.zeros(2, 3).half(), "n": torch.tensor(1)},
        {"a": torch.full((2, 3), -0.0), "n": torch.tensor(1)},
        {"a": torch.zeros(2, 3), "n": torch.tensor(2)},
    ]
    assert weights_digest(base) == weights_digest({name: value.clone() for name, value in base.items()})
    assert len({weights_digest(state) for state in (base, *others)}) == 6
    assert digest(["ab", "c"]) != digest(["a", "bc"])
