"""The commands of docs/scale.md as they stand: their flags and names (tests/test_page_commands.py runs them cut)."""

import importlib
import re
import shlex
from pathlib import Path

import pytest

from visionsparse.config import resolve_config
from visionsparse.inference import find

PAGE = (Path(__file__).parents[1] / "docs/scale.md").read_text().replace("\\\n", " ")
COMMANDS = re.findall(r"-m visionsparse\.tools\.(\w+) ([^\n]*)", PAGE)


@pytest.mark.parametrize(("tool", "words"), COMMANDS, ids=[f"{tool} {words}" for tool, words in COMMANDS])
def test_the_tool_takes_these_flags_and_knows_this_name(tool, words, capsys):
    main = importlib.import_module(f"visionsparse.tools.{tool}").main
    name = shlex.split(words)[0]

    with pytest.raises(SystemExit):
        main(["--help"])

    known = capsys.readouterr().out
    assert all(flag in known for flag in re.findall(r"--[\w-]+", words))
    assert find(name) if tool == "infer" else resolve_config(name)


def test_the_page_shows_train_test_and_infer():
    assert {tool for tool, _ in COMMANDS} == {"train", "test", "infer"}
