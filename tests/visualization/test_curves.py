"""The curves picture, from files such as mmengine's LocalVisBackend writes."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from visionsparse.errors import InputError
from visionsparse.visualization.curves import draw_curves, read_scalars
from visionsparse.visualization.figure import RUN_COLOURS


def write_run(work_dir: Path, timestamp: str, iterations: range, *, loss: float = 1.0, tail: str = "") -> None:
    """Ten iterations an epoch, a record every five, a validation after each epoch."""
    lines = []
    for step in iterations:
        epoch = -(-step // 10)
        if step % 5 == 0:
            lines.append({"lr": 1e-3, "loss": loss, "epoch": epoch, "iter": step, "step": step})
        if step % 10 == 0:
            lines.append({"top1": 50.0 + epoch, "step": epoch})
    file = work_dir / timestamp / "vis_data" / "scalars.json"
    file.parent.mkdir(parents=True)
    file.write_text("".join(json.dumps(line) + "\n" for line in lines) + tail)


def test_a_resumed_run_reads_as_one_and_its_repeats_replace_the_first_try(tmp_path):
    write_run(tmp_path, "20260101_000000", range(1, 36), loss=2.0)
    write_run(tmp_path, "20260101_010000", range(21, 41), loss=1.0)

    training, validation = read_scalars(tmp_path)

    assert [(record["step"], record["loss"]) for record in training] == [
        (5, 2.0), (10, 2.0), (15, 2.0), (20, 2.0), (25, 1.0), (30, 1.0), (35, 1.0), (40, 1.0)
    ]  # fmt: skip
    assert [record["step"] for record in validation] == [1, 2, 3, 4]


def test_a_fresh_start_in_the_same_folder_drops_the_longer_run_before_it(tmp_path):
    write_run(tmp_path, "20260101_000000", range(1, 41), loss=2.0)
    write_run(tmp_path, "20260101_010000", range(1, 11), loss=1.0)

    training, validation = read_scalars(tmp_path)

    assert [record["loss"] for record in training] == [1.0, 1.0]
    assert [record["step"] for record in validation] == [1]


def test_the_torn_last_line_of_a_killed_run_is_skipped(tmp_path):
    write_run(tmp_path, "20260101_000000", range(1, 11), tail='{"loss": 0.')

    assert [record["step"] for record in read_scalars(tmp_path)[0]] == [5, 10]


@pytest.mark.parametrize("iterations", [range(1, 31), range(1, 8)], ids=["with validation", "before the first one"])
def test_the_picture_is_written_into_the_work_folder(tmp_path, iterations):
    write_run(tmp_path, "20260101_000000", iterations)

    path = draw_curves(tmp_path)

    assert path == tmp_path / "curves.png"
    assert Image.open(path).size[0] >= 800


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere: no such folder\. Give the work folder of a training run"):
        draw_curves(tmp_path / "nowhere")


def test_a_folder_without_training_says_what_was_looked_for(tmp_path):
    with pytest.raises(InputError, match=r"no training numbers in it \(looked for \*/vis_data/scalars\.json\)"):
        draw_curves(tmp_path)


def test_an_unknown_picture_format_lists_the_known_ones(tmp_path):
    write_run(tmp_path, "20260101_000000", range(1, 11))

    with pytest.raises(InputError, match=r"curves\.xyz: \.xyz is not a picture format\. Use one of \.png"):
        draw_curves(tmp_path, tmp_path / "curves.xyz")


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    write_run(tmp_path, "20260101_000000", range(1, 11))
    (tmp_path / "file").write_text("not a folder")

    with pytest.raises(InputError, match=r"file/curves\.png: can't be written: .*\. Name another place\."):
        draw_curves(tmp_path, tmp_path / "file" / "curves.png")


def test_several_runs_are_compared_in_one_picture_each_in_its_colour(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, loss in (("adamw", 1.0), ("lamb", 2.0), ("again/lamb", 3.0)):
        write_run(tmp_path / name, "20260101_000000", range(1, 31), loss=loss)

    path = draw_curves([tmp_path / "adamw", tmp_path / "lamb", tmp_path / "again/lamb"])

    assert path == Path("curves.png")
    pixels = np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3)
    for colour in RUN_COLOURS[:3]:
        rgb = [int(colour[start : start + 2], 16) for start in (1, 3, 5)]
        assert (pixels == rgb).all(axis=1).sum() > 500


def test_runs_that_share_no_axis_are_refused(tmp_path):
    write_run(tmp_path / "epochs", "20260101_000000", range(1, 31))
    file = tmp_path / "iterations" / "20260101_000000" / "vis_data" / "scalars.json"
    file.parent.mkdir(parents=True)
    file.write_text('{"loss": 1.0, "lr": 0.1, "step": 1}\n')

    with pytest.raises(InputError, match=r"some of these runs count epochs and others iterations only"):
        draw_curves([tmp_path / "epochs", tmp_path / "iterations"])
