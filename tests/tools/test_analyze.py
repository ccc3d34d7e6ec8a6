"""`visionsparse analyze`."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from visionsparse import cli
from visionsparse.zoo import variants

FAST = ("--seconds", "0.01")


def call(capsys, *words):
    with pytest.raises(SystemExit) as caught:
        cli.main(["analyze", *map(str, words), *FAST])
    captured = capsys.readouterr()
    return caught.value.code, captured.out, captured.err


def test_models_of_ours_and_of_timm_stand_side_by_side(capsys, tmp_path):
    code, shown, _ = call(
        capsys,
        "biformer_nano",
        "test_resnet",
        "--image-size",
        32,
        64,
        "--batch-size",
        1,
        3,
        "--json",
        tmp_path / "a.json",
    )

    assert code == 0
    assert "skipped %" in shown and "images/s" in shown and "threads" in shown
    content = json.loads((tmp_path / "a.json").read_text())
    assert {"cpu", "threads", "dtype", "versions"} <= content["machine"].keys()
    rows = {(row["model"], *row["image_size"], row["batch_size"]): row for row in content["rows"]}
    assert len(rows) == 8
    nano, dense = rows["biformer_nano", 32, 32, 1], rows["test_resnet", 32, 32, 1]
    assert nano["parameters"] == variants()["biformer_nano"].facts["params"]
    assert 0 < nano["skipped"] < 1 and nano["gmacs"] < nano["dense_gmacs"]
    assert dense["skipped"] == 0 and dense["gmacs"] == dense["dense_gmacs"]
    assert rows["biformer_nano", 32, 32, 3]["gmacs"] == pytest.approx(nano["gmacs"])
    assert all(row["images_per_second"] > 0 for row in rows.values())
    weights_mib = 4 * nano["parameters"] / 2**20
    assert weights_mib < nano["peak_mib"] < rows["biformer_nano", 64, 64, 3]["peak_mib"]


def test_accuracies_are_drawn_against_cost(capsys, tmp_path):
    picture = tmp_path / "costs.png"
    words = ["biformer_nano", "test_resnet", "--image-size", 32, "--plot", picture]

    code, shown, _ = call(capsys, *words, "--top1", "biformer_nano=90", "test_resnet=50.5")

    assert code == 0 and f"plot: {picture}" in shown
    with Image.open(picture) as image:
        assert min(image.size) > 300


def test_a_size_that_a_model_refuses_is_said_and_the_others_are_measured(capsys):
    code, shown, _ = call(capsys, "biformer_nano", "test_resnet", "--image-size", 36)

    assert code == 0
    assert "biformer_nano at 36 x 36: stage 1: a map of 9 x 9 does not divide" in shown
    assert len(next(line for line in shown.splitlines() if line.startswith("test_resnet")).split()) > 8


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["biformer_nanno"], "'biformer_nanno' is a model of neither visionsparse nor timm. Did you mean"),
        (["biformer_nano", "--image-size", "0"], "image_sizes=[0]: expected numbers of 1 or more"),
        (["biformer_nano", "--top1", "biformer_nano=x"], "--top1 biformer_nano=x: expected NAME=PERCENT"),
        (["biformer_nano", "--top1", "resnet50=80"], "resnet50 is not among the models: biformer_nano"),
        (["biformer_nano", "--image-size", "36"], "no model takes any of these sizes"),
        (["biformer_nano", "--plot", "x.png"], "no model has an accuracy to draw"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line_and_exit_code_2(capsys, words, message):
    code, _, error = call(capsys, *words)

    assert code == 2
    assert message in error and error.count("\n") == 1
