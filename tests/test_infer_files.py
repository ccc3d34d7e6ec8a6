"""Inference over files: one answer a file whatever happened on the way, nothing computed twice."""

import json
import os

import numpy as np
import pytest
import torch
from PIL import Image

from tests.tiny_classifier import CONFIG
from visionsparse import apis
from visionsparse.errors import DataError, InputError
from visionsparse.image_files import find_files
from visionsparse.infer_files import BATCH_SIZE, answers, infer_files
from visionsparse.tools import infer as tool

NUM_IMAGES = 2 * BATCH_SIZE + 6


class Killed(BaseException):
    """As sudden as Python gets."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A config, weights and 70 images; in one of three, and in the last, there is no image."""
    folder = tmp_path_factory.mktemp("infer_files")
    (folder / "config.py").write_text(CONFIG)
    torch.manual_seed(0)
    torch.save({"state_dict": apis.init_model(folder / "config.py", device="cpu").state_dict()}, folder / "c.pth")
    (folder / "images").mkdir()
    for number in range(NUM_IMAGES):
        Image.fromarray(np.full((8, 8, 3), 3 * number, dtype=np.uint8)).save(folder / f"images/{number:02}.png")
    return folder


@pytest.fixture
def model(trained):
    return apis.init_model(trained / "config.py", trained / "c.pth", device="cpu")


@pytest.fixture
def files(trained):
    return find_files([str(trained / "images")])


def kill_at(model, number):
    """Lets the model die in its forward of that number (from 1); the count is in the list that it returns."""
    count = []

    def hook(*_):
        count.append(1)
        if len(count) == number:
            raise Killed

    model.backbone.register_forward_pre_hook(hook)
    return count


def test_the_answers_are_those_of_infer(model, files, tmp_path):
    parts = infer_files(model, files, tmp_path / "parts")

    assert list(answers(model, files, parts)) == apis.infer(model, list(files))


@pytest.mark.parametrize("number", [1, 2, 3])
def test_after_a_kill_only_what_is_missing_is_computed(model, files, tmp_path, number, capsys):
    expected = apis.infer(model, list(files))
    count = kill_at(model, number)
    with pytest.raises(Killed):
        infer_files(model, files, tmp_path / "parts")

    parts = infer_files(model, files, tmp_path / "parts")

    assert len(count) == 3 + 1
    assert list(answers(model, files, parts)) == expected
    assert (f"{number - 1} of 3 parts are finished" in capsys.readouterr().out) == (number > 1)


def test_parts_of_other_files_weights_or_flags_are_refused(model, files, tmp_path):
    kill_at(model, 2)
    with pytest.raises(Killed):
        infer_files(model, files, tmp_path / "parts")

    with pytest.raises(InputError, match="files and batches differ"):
        infer_files(model, files[:40], tmp_path / "parts")
    with pytest.raises(InputError, match="skip_corrupt differs"):
        infer_files(model, files, tmp_path / "parts", skip_corrupt=True)
    torch.nn.init.zeros_(model.backbone.head.bias)
    torch.nn.init.ones_(model.backbone.head.weight)
    with pytest.raises(InputError, match="checkpoint differs"):
        infer_files(model, files, tmp_path / "parts")


@pytest.fixture
def corrupt(trained, tmp_path):
    """A whole batch of broken files and one whole image."""
    folder = tmp_path / "corrupt"
    folder.mkdir()
    for number in range(BATCH_SIZE):
        (folder / f"{number:02}.png").write_bytes(b"\x89PNG broken")
    Image.new("RGB", (8, 8)).save(folder / "last.png")
    return folder


def test_a_corrupt_file_stops_and_is_named(model, corrupt, tmp_path):
    with pytest.raises(DataError, match=r"00\.png"):
        infer_files(model, find_files([str(corrupt)]), tmp_path / "parts")


def test_corrupt_files_are_skipped_and_counted_by_choice(trained, corrupt, tmp_path, capsys):
    flags = ["--checkpoint", str(trained / "c.pth"), "--json", str(tmp_path / "a.json"), "--out", str(tmp_path / "out")]

    tool.main([str(trained / "config.py"), str(corrupt), "--skip-corrupt", "--device", "cpu", *flags])

    found = json.loads((tmp_path / "a.json").read_text())
    assert [answer["path"] for answer in found] == sorted(map(str, corrupt.iterdir()))
    assert all(answer["path"] in answer["error"] for answer in found[:-1])
    assert "score" in found[-1]
    shown = capsys.readouterr().out
    assert f"skipped {BATCH_SIZE} files that can't be read as images" in shown
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["last.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "corrupt", "out"]


def test_a_file_name_that_is_no_text_is_answered_and_written(trained, tmp_path, capsys):
    name = os.fsencode(tmp_path) + b"/caf\xe9.png"
    Image.new("RGB", (8, 8)).save(os.fsdecode(name))

    tool.main([
        str(trained / "config.py"), os.fsdecode(name), "--checkpoint", str(trained / "c.pth"), "--device", "cpu",
        "--json", str(tmp_path / "a.json"),
    ])  # fmt: skip

    (answer,) = json.loads((tmp_path / "a.json").read_text())
    assert os.fsencode(answer["path"]) == name


def test_without_json_nothing_stays_behind(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    tool.main([
        str(trained / "config.py"), str(trained / "images"), "--checkpoint", str(trained / "c.pth"), "--device", "cpu",
    ])  # fmt: skip

    assert capsys.readouterr().out.count(".png") == NUM_IMAGES
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_read_in_the_order_of_paths_without_hidden_ones(tmp_path):
    names = ["a/2.png", "a.png", "a/b/1.PNG", "b.jpeg", "a-b/3.png", ".hidden.png", ".folder/4.png", "note.txt"]
    for name in names:
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).touch()
    (tmp_path / "images/folder.png").mkdir()
    (tmp_path / "images/link.png").symlink_to(tmp_path / "images/b.jpeg")
    (tmp_path / "images/loop").symlink_to(tmp_path / "images")

    files = find_files([str(tmp_path / "images")])

    expected = sorted(tmp_path / "images" / name for name in (*names[:5], "link.png"))
    assert list(files) == [str(path) for path in expected]
    assert list(files.picture_names()) == ["a/2", "a/b/1", "a-b/3", "a", "b", "link"]
