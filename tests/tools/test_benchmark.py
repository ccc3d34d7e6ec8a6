"""Tests of visionsparse benchmark, on sizes that take milliseconds."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch

from visionsparse import cli
from visionsparse.benchmark import (
    block_sparse_attention,
    measure,
    roofline,
    routed_attention,
    session,
    timing,
    training,
)
from visionsparse.errors import UserError
from visionsparse.tools import benchmark


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    routed = routed_attention.Case("tiny", batch=1, heads=1, size=8, regions=2, topk=1, width=4)
    blocks = block_sparse_attention.Case("64", tokens=64, heads=2, width=8, blocks=(8, 16), densities=(0.5, 0.25))
    monkeypatch.setattr(timing, "MIN_SAMPLE", 1e-4)
    monkeypatch.setattr(roofline, "_SIDE", 64)
    monkeypatch.setattr(roofline, "_BYTES", 2**16)
    monkeypatch.setattr(routed_attention, "CASES", (routed,))
    monkeypatch.setattr(block_sparse_attention, "CASES", (blocks,))
    # A process of its own would know nothing of the above; tests/benchmark/test_processes.py starts real ones.
    monkeypatch.setattr(session, "with_threads", lambda number, produce, *args: produce(*args))
    # What compiles for half a minute has its own, slow test.
    monkeypatch.setattr(block_sparse_attention, "_why_not_flex", lambda *_: "it compiles for long.")


def ops(*words: str | Path) -> None:
    benchmark.main(["ops", "--device", "cpu", "--rounds", "3", *map(str, words)])


def results(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text())["results"]


def test_ops_are_measured_compared_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "new" / "ops.json"
    ops("--json", path, "--plot", tmp_path / "ops.png")
    content = json.loads(path.read_text())
    assert content["complete"] is True
    assert content["command"].startswith("visionsparse benchmark ops --device cpu")
    assert {"date", "commit", "device", "cpu", "cpu_cores", "versions", "how"} <= content.keys()
    found = content["results"]
    assert len(found) == 2 * (8 + 11)  # passes; candidates of either op
    for record in found:
        assert {"op", "case", "candidate", "pass", "dtype", "threads", "shape", "density"} <= record.keys()
        assert {"rounds", "baseline", "speed", "times_ours", "peak_memory_mib", "cpu_share"} <= record.keys()
        low, high = record["quartiles_ms"]
        assert 0 < low <= record["median_ms"] <= high
        assert record["roofline_fraction"] == pytest.approx(record["roofline_ms"] / record["median_ms"], rel=1e-3)
        assert record["candidate"] != record["baseline"] or record["speed"] == 1
    printed = capsys.readouterr()
    assert "visionsparse torch" in printed.out
    assert "break-even with dense SDPA: block_sparse_attention, 64 tokens" in printed.out
    assert "compiled FlexAttention left out: it compiles for long." in printed.err
    assert "eta" in printed.err
    assert (tmp_path / "ops.png").stat().st_size > 10_000


def test_speeds_are_told_against_the_baseline_of_the_same_case(tmp_path: Path) -> None:
    ops("--forward-only", "--json", tmp_path / "ops.json")
    found = results(tmp_path / "ops.json")
    for record in found:
        same = [other for other in found if other["op"] == record["op"]]
        (baseline,) = [other for other in same if other["candidate"] == record["baseline"]]
        assert record["speed"] == pytest.approx(baseline["median_ms"] / record["median_ms"], rel=1e-3)
        mine = [r for r in same if (r["candidate"], r["case"]) == ("visionsparse torch", record["case"])]
        if mine:
            assert record["times_ours"] == pytest.approx(record["median_ms"] / mine[0]["median_ms"], rel=1e-3)


def test_dtypes_and_threads_are_measured_apart(tmp_path: Path) -> None:
    path = tmp_path / "ops.json"
    one = ["--op", "routed_attention", "--candidate", "visionsparse torch", "--forward-only"]
    ops(*one, "--threads", "1,2", "--dtype", "fp32,bf16", "--json", path)
    found = [(record["threads"], record["dtype"]) for record in results(path)]
    assert found == [(n, dtype) for n in (1, 2) for dtype in ("float32", "float32", "bfloat16", "bfloat16")]


def test_filters_keep_what_matches_and_the_baseline(tmp_path: Path) -> None:
    ops("--forward-only", "--case", "64/8/*", "--candidate", "visionsparse*", "--json", tmp_path / "ops.json")
    found = [(record["case"], record["candidate"]) for record in results(tmp_path / "ops.json")]
    ours = "visionsparse torch"
    assert found == [("64/dense", "dense SDPA"), ("64/8/0.5", ours), ("64/8/0.25", ours)]


@pytest.mark.parametrize("what", [["ops"], ["models", "biformer_nano", "--image-size", "32"]])
def test_a_dry_run_runs_nothing(
    what: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("was run")

    for module in (routed_attention, block_sparse_attention):
        monkeypatch.setattr(module, "attention_call", refuse)
    monkeypatch.setattr("visionsparse.benchmark.models._call", refuse)
    benchmark.main([*what, "--dry-run"])
    printed = capsys.readouterr().out
    if what == ["ops"]:
        assert "GFLOP" in printed and "A100 ms" in printed and "here ms" in printed
        assert "left out: it compiles for long." in printed
    else:
        assert "biformer_nano, reference" in printed


def test_ctrl_c_keeps_what_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    real, path = measure.interleaved, tmp_path / "ops.json"

    def interrupted(calls: dict, *args: Any, **more: Any):
        if "64/dense dense SDPA" in calls:
            raise KeyboardInterrupt
        return real(calls, *args, **more)

    monkeypatch.setattr(measure, "interleaved", interrupted)
    with pytest.raises(SystemExit) as stop:
        cli.main(["benchmark", "ops", "--device", "cpu", "--rounds", "3", "--forward-only", "--json", str(path)])
    assert stop.value.code == 130
    assert json.loads(path.read_text())["complete"] is False
    assert {record["op"] for record in results(path)} == {"routed_attention"}
    assert "Traceback" not in capsys.readouterr().err


def test_a_candidate_of_someone_else_that_fails_is_left_out_and_told(monkeypatch, capsys, tmp_path: Path) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("C++ compile error\nwith details")

    monkeypatch.setattr(block_sparse_attention, "_why_not_flex", lambda *_: None)
    monkeypatch.setattr(block_sparse_attention, "compiled_flex", fail)
    ops("--op", "block_sparse_attention", "--case", "64/8/0.5", "--forward-only", "--json", tmp_path / "ops.json")
    assert "compiled FlexAttention left out: RuntimeError: C++ compile error" in capsys.readouterr().err
    assert "compiled FlexAttention" not in {record["candidate"] for record in results(tmp_path / "ops.json")}


def test_models_of_the_zoo_and_of_timm_are_measured_side_by_side(tmp_path: Path) -> None:
    path, threads = tmp_path / "models.json", torch.get_num_threads()
    names = ["biformer_nano", "test_vit2"]
    short = ["--image-size", "64", "--batch-size", "1,2", "--rounds", "1", "--device", "cpu", "--threads", "2"]
    benchmark.main(["models", *names, *short, "--json", str(path)])
    found = results(path)
    forms = ["biformer_nano, torch", "biformer_nano, reference", "test_vit2 (timm)"]
    assert [record["candidate"] for record in found] == forms * 2
    for record in found:
        images = int(record["shape"].split()[0])
        assert record["images_per_s"] == pytest.approx(1e3 * images / record["median_ms"], rel=1e-3)
        assert record["peak_memory_mib"] > 0
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["ops", "--op", "routed_atention"], "--op routed_atention: no such op to measure. Did you mean"),
        (["ops", "--case", "9k/*"], "--case 9k/* (there are 64/16/0.25, "),
        (["ops", "--candidate", "xformers"], "--candidate xformers (there are SDPA over gathered blocks, "),
        (["ops", "--json", "/proc/x/y.json"], "--json /proc/x/y.json: can't be written"),
        (["ops", "--plot", "times.txt"], "times.txt: .txt is not a picture format"),
        (["models", "biformer_tinny"], "'biformer_tinny' is a model of neither visionsparse nor timm. Did you mean"),
        (["training", "biformer/nano"], "biformer/nano"),
    ],
)
def test_a_wrong_value_is_refused_in_one_line(words: list[str], said: str) -> None:
    with pytest.raises(UserError) as error:
        benchmark.main(words)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["ops", "--threads", "0"], "'0' is no list of whole numbers from 1 on"),
        (["ops", "--dtype", "int8"], "'int8' is no list of fp32, bf16, fp16"),
        (["ops", "--treads", "1"], "Did you mean '--threads'?"),
        (["op"], "invalid choice: 'op'"),
    ],
)
def test_a_wrong_flag_ends_in_one_line_and_exit_code_2(words, said: str, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        benchmark.main(words)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


DOCS = Path(__file__).parents[2] / "docs/benchmarks.md"
COMMANDS = re.findall(r"^visionsparse benchmark (.*)$", DOCS.read_text(), re.MULTILINE)


@pytest.mark.parametrize("command", [command for command in COMMANDS if not command.startswith("training")])
def test_a_documented_command_works(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """Cut short: the cases are tiny ones of the same names, the images small, the rounds few."""
    monkeypatch.chdir(tmp_path)
    case = block_sparse_attention.CASES[0]._replace(name="8k", tokens=1024, heads=1, blocks=(64,), densities=(0.5, 0.1))
    monkeypatch.setattr(block_sparse_attention, "CASES", (case,))
    words = [*shlex.split(command), "--threads", "1", "--device", "cpu"]
    words += ["--rounds", "1"] if "--rounds" not in words else []
    words += ["--image-size", "64", "--batch-size", "1"] if words[0] == "models" else []
    smaller = {"swin_tiny_patch4_window7_224": "test_vit", "deit_small_patch16_224": "test_vit2"}
    smaller["biformer_tiny"] = "biformer_nano"
    benchmark.main([smaller.get(word, word) for word in words])
    assert "candidate" in capsys.readouterr().out
    for flag in {"--json", "--plot"} & set(words):
        assert Path(words[words.index(flag) + 1]).is_file()


@pytest.mark.slow
def test_the_documented_training_command_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (command,) = [command for command in COMMANDS if command.startswith("training")]
    cut = ["--cfg-options", "train_dataloader.batch_size=512", "model.backbone.depths=(1,1)"]
    benchmark.main([*shlex.split(command), "--rounds", "1", "--device", "cpu", *cut])
    assert [record.get("workers") for record in results(Path("training.json"))] == [0, 1, 2, None, None]


def test_every_kind_is_documented() -> None:
    assert {command.split()[0] for command in COMMANDS} == {"ops", "models", "training"}


def test_training_epochs_saves_and_resumes_are_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(training, "_SAVES", 2)
    short = ["--workers", "0", "--rounds", "1", "--device", "cpu", "--json", "training.json"]
    options = ["--cfg-options", "train_dataloader.batch_size=512", "model.backbone.depths=(1,1)"]
    benchmark.main(["training", "biformer/biformer_nano_digits", *short, *options])
    *epochs, save, resume = results(Path("training.json"))
    assert [record["workers"] for record in epochs] == [0]
    for record in epochs:
        assert record["rounds"] == 2  # the epoch that starts the workers does not count
        assert record["images_per_s"] == pytest.approx(1437 / record["median_ms"] * 1e3, rel=1e-3)
    assert (save["what"], resume["what"]) == ("checkpoint save", "resume")
    assert save["rounds"] == resume["rounds"] == 2
    assert save["checkpoint_mib"] > 1
