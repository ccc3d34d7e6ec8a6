"""`visionsparse browse-dataset` and `vs.draw_batch`: a config in, a picture out, the same one twice."""

import pytest
from PIL import Image

import visionsparse as vs
from visionsparse import cli

CONFIG = "biformer/biformer_nano_digits"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("browse")


@pytest.fixture(autouse=True)
def inside(folder, monkeypatch):
    monkeypatch.chdir(folder)


def call(*words):
    with pytest.raises(SystemExit) as caught:
        cli.main(["browse-dataset", *words])
    return caught.value.code


def test_the_command_and_the_call_give_the_same_picture_twice(folder, capsys):
    code = call(CONFIG, "--num", "2", "--out", "out/batch.png", "--cfg-options", "train_dataloader.batch_size=2")

    assert code == 0
    assert capsys.readouterr().out.endswith("batch: out/batch.png\n")
    path = vs.draw_batch(CONFIG, folder / "again.png", num=2, options={"train_dataloader.batch_size": 2})
    assert path.read_bytes() == (folder / "out/batch.png").read_bytes()
    other = vs.draw_batch(CONFIG, folder / "other.png", num=2, options={"randomness.seed": 5})
    assert other.read_bytes() != path.read_bytes()


def test_validation_shows_what_evaluation_prepares(folder):
    path = vs.draw_batch(CONFIG, folder / "val.png", split="val", num=1)

    assert Image.open(path).size[0] < 400  # the file and what was made of it


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((CONFIG, "--num", "65"), "num=65: a batch of train has 64 samples: choose 1 to 64 of them."),
        ((CONFIG, "--split", "trian"), "argument --split: invalid choice: 'trian'"),
        ((CONFIG, "--out", "batch.xyz"), "batch.xyz: .xyz is not a picture format."),
        (("biformer/biformer_nano_digit",), "no such config file, and no installed config of that name."),
        (("biformer/biformer_tiny_in1k",), "data/imagenet: no such folder"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(capsys, words, message):
    assert call(*words) == 2

    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
