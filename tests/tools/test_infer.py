"""`visionsparse infer`: what it prints and writes, which files it takes, and how it refuses."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from tests.tiny_classifier import CONFIG
from visionsparse import apis, cli
from visionsparse.errors import DataError
from visionsparse.image_files import find_files
from visionsparse.tools import infer


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A config, its checkpoint, and images in folders: a/1.png, a/2.png, b/1.png, and what is no image."""
    folder = tmp_path_factory.mktemp("infer")
    (folder / "config.py").write_text(CONFIG)
    model = apis.init_model(folder / "config.py", device="cpu")
    meta = {"classes": ["a", "b", "c"], "class_names": ["cat, tabby", "dog", "ant"]}
    torch.save({"state_dict": model.state_dict(), "meta": meta}, folder / "trained.pth")
    for number, name in enumerate(["a/1.png", "a/2.png", "b/1.png", "b/.hidden.png", ".thumbs/3.png"]):
        path = folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), 40 * number, dtype=np.uint8)).save(path)
    (folder / "images" / "notes.txt").write_text("not an image")
    (folder / "empty").mkdir()
    return folder


def call(*arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.run(infer.main, [str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return caught.value.code, captured.out, captured.err


def test_a_folder_gives_a_table_json_and_pictures(trained, tmp_path, capsys):
    code, shown, _ = call(
        trained / "config.py", trained / "images", "--checkpoint", trained / "trained.pth", "--device", "cpu",
        "--json", tmp_path / "deep" / "answers.json", "--out", tmp_path / "pictures", capsys=capsys,
    )  # fmt: skip

    assert code == 0
    answers = json.loads((tmp_path / "deep" / "answers.json").read_text())
    files = [str(trained / "images" / name) for name in ("a/1.png", "a/2.png", "b/1.png")]
    assert answers == apis.infer(apis.init_model(trained / "config.py", trained / "trained.pth", device="cpu"), files)
    assert [answer["path"] for answer in answers] == files
    assert set(answers[0]) == {"path", "label", "class_name", "score", "top5"}
    assert len(answers[0]["top5"]) == 3
    lines = shown.splitlines()
    assert all(any(file in line and "%" in line for line in lines) for file in files)
    written = sorted(str(path.relative_to(tmp_path / "pictures")) for path in (tmp_path / "pictures").rglob("*.png"))
    assert written == ["a/1.png", "a/2.png", "b/1.png", "predictions.png"]


def test_patterns_folders_and_files_are_taken_in_order_and_once(trained):
    images = trained / "images"

    files = find_files([str(images / "b" / "1.png"), str(images / "*" / "1.png"), str(images / "a")])

    assert dict(zip(files, files.picture_names(taken=["2"]), strict=True)) == {
        str(images / "b" / "1.png"): "1",
        str(images / "a" / "1.png"): "1-2",
        str(images / "a" / "2.png"): "2-2",
    }


def test_a_name_with_pattern_letters_is_still_a_file(tmp_path):
    Image.new("RGB", (1, 1)).save(tmp_path / "a[1].png")

    assert list(find_files([str(tmp_path / "a[1].png")])) == [str(tmp_path / "a[1].png")]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("nowhere.png", "nowhere.png: no such file or folder. Give an image file, a folder or a quoted pattern"),
        ("images/*.jpg", "images/*.jpg: no image matches this pattern. Give an image file"),
        ("empty", "empty: no image in this folder (looked for .apng .bmp"),
    ],
)
def test_a_word_that_means_no_image_is_named(trained, word, message):
    with pytest.raises(DataError) as caught:
        find_files([str(trained / word)])
    assert message in str(caught.value)


def test_no_checkpoint_is_refused_with_a_sentence(trained, capsys):
    code, _, error = call("biformer_nano", trained / "images", capsys=capsys)

    assert code == 2
    assert error == (
        "visionsparse: biformer_nano: no checkpoint given, and a net with random weights has no answer. "
        "Pass its weights: --checkpoint FILE, or checkpoint=FILE in Python.\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["biformer_nanno", "images"],
            "'biformer_nanno' is neither a config nor a model of visionsparse. Did",
        ),
        (["config.py", "images/notes.txt"], "images/notes.txt: not an image of a known format"),
        (["config.py", "images", "--checkpoint", "nowhere.pth"], "nowhere.pth"),
        (["config.py", "images", "--device", "gpu"], "gpu: expected cpu, cuda"),
        (["config.py", "images", "--json", "config.py/answers.json"], "config.py: can't make this folder"),
        (["config.py", "images", "--json", "empty"], "empty: can't be written: Is a directory"),
        (["config.py", "images", "--otu", "x"], "--otu: no such flag or argument. Did you mean '--out'?"),
        (["config.py"], "the following arguments are required: INPUT"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(trained, monkeypatch, arguments, message, capsys):
    monkeypatch.chdir(trained)
    if "--checkpoint" not in arguments:
        arguments = [*arguments, "--checkpoint", "trained.pth"]

    code, _, error = call(*arguments, capsys=capsys)

    assert code == 2
    assert message in error
    assert error.count("\n") == 1
