"""`visionsparse routes`: one command for the picture, and the regions as JSON."""

import json

import pytest
import torch
from PIL import Image

import visionsparse as vs
from visionsparse import cli

CONFIG = """
model = dict(type="ImageClassifier", backbone=dict(type="biformer_nano", depths=(1, 1), topks=(3, -2), num_classes=3))
test_dataloader = dict(dataset=dict(type="Digits", split="val", pipeline=[dict(type="Resize", size=(32, 32))]))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("routes")
    (folder / "config.py").write_text(CONFIG)
    torch.save(vs.init_model(folder / "config.py", device="cpu").state_dict(), folder / "weights.pth")
    Image.new("RGB", (64, 64), "green").save(folder / "photo.png")
    return folder


@pytest.fixture(autouse=True)
def inside(folder, monkeypatch):
    monkeypatch.chdir(folder)


def call(*words):
    with pytest.raises(SystemExit) as caught:
        cli.main(["routes", "config.py", "photo.png", "--checkpoint", "weights.pth", "--device", "cpu", *words])
    return caught.value.code


def test_the_picture_and_the_regions_are_written(folder, capsys):
    code = call("--point", "10,20", "--point", "50,60", "--out", "out/r.png", "--json", "out/r.json")

    assert code == 0
    assert capsys.readouterr().out == "routes: out/r.png\njson: out/r.json\n"
    assert Image.open("out/r.png").size[0] > 450
    model = vs.init_model("config.py", "weights.pth", device="cpu")
    assert json.loads((folder / "out/r.json").read_text()) == vs.find_routes(model, "photo.png", [(10, 20), (50, 60)])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--point", "10"], "'10': expected X,Y in pixels of the image, such as 160,120."),
        (["--point", "64,2"], "point (64, 2) is outside the image of 64 x 64 pixels"),
        (["--stage", "2"], "stage 2 has no routed block: expected one of 1."),
        (["--block", "second"], "'second': expected last, all or a number."),
        (["--block", "2"], "block 2: expected 'last', 'all' or the number of a routed block (stage.block: 1.1)."),
        (["--out", "r.xyz"], "r.xyz: .xyz is not a picture format."),
        (["--json", "config.py/r.json"], "config.py/r.json: can't be written"),
        (["--checkpoint", "nowhere.pth"], "nowhere.pth"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(capsys, words, message):
    assert call(*words) == 2

    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
