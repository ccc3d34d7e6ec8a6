"""Every command of docs/training.md and of the recipes' headers runs."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest

from tests.models.biformer.trial import VARIANTS, evaluation, nano, recipe
from visionsparse.config import resolve_config
from visionsparse.tools import test as test_tool
from visionsparse.tools import train as train_tool

COMMAND = re.compile(r"^(?:visionsparse (?:train|test)|torchrun) .*", re.MULTILINE)
DOCS = Path(__file__).parents[3] / "docs/training.md"


def commands_of_the_docs() -> list[str]:
    return [
        command
        for block in re.findall(r"```sh\n(.*?)```", DOCS.read_text(), re.S)
        for command in COMMAND.findall(block)
    ]


def commands_of_the_headers() -> list[str]:
    headers = (ast.get_docstring(ast.parse(resolve_config(recipe(variant)).read_text())) for variant in VARIANTS)
    return [command for header in headers for command in COMMAND.findall(header or "")]


def run_command(command: str, digits: Path, checkpoint: Path, work_dir: Path) -> None:
    """Runs it as it stands, in one process, with biformer_nano on a few digits."""
    words = shlex.split(command)
    is_test = words[1] == "test"
    words = words[words.index("visionsparse.tools.train") + 1 :] if words[0] == "torchrun" else words[2:]
    given = words[words.index("--cfg-options") + 1 :] if "--cfg-options" in words else []
    words = words[: words.index("--cfg-options")] if given else words
    trial = evaluation(digits) if is_test else {**nano(digits, 0), "train_cfg.max_epochs": 1}
    words += ["--device", "cpu", "--cfg-options", *(f"{key}={value!r}" for key, value in trial.items()), *given]
    if is_test:
        words[1] = str(checkpoint)
        words[words.index("--out") + 1] = str(work_dir / "results.json")
        test_tool.main(words)
    else:
        train_tool.main(["--work-dir", str(work_dir), *words])


@pytest.mark.parametrize("command", commands_of_the_docs(), ids=lambda command: command[-30:])
def test_a_command_of_the_docs_runs(command: str, digits: Path, straight: Path, tmp_path: Path) -> None:
    run_command(command, digits, straight / "iter_9.pth", tmp_path)

    assert list(tmp_path.glob("*.pth"))


@pytest.mark.slow
@pytest.mark.parametrize("command", commands_of_the_headers(), ids=lambda command: command[-30:])
def test_a_command_of_a_header_runs(command: str, digits: Path, straight: Path, tmp_path: Path) -> None:
    run_command(command, digits, straight / "iter_9.pth", tmp_path)

    assert list(tmp_path.glob("*.pth")) or (tmp_path / "results.json").is_file()


def test_the_docs_and_headers_hold_commands() -> None:
    assert len(commands_of_the_docs()) == 6
    assert len(commands_of_the_headers()) == 3 * len(VARIANTS)
