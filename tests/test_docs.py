"""Every page of docs/ runs from top to bottom, as a notebook would: its Python blocks share their names, and its
commands are run between them, in a folder with the files that they name; `tests/reader.py` says how they are cut short.

A page with commands is slow, one of Python alone is quick.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.reader import REPLACED, SETUPS, blocks_of, commands_of, make_folder, shortened, tool_of
from visionsparse.cli import TOOLS

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted(DOCS.glob("**/*.md"))
COMMANDS = {page: [c for lang, text in blocks_of(page) if lang == "bash" for c in commands_of(text)] for page in PAGES}

# Pages whose commands have a test of their own.
OWN_TESTS = {
    "benchmarks.md": "tools/test_benchmark.py",
    "models.md": "test_models_page.py",
    "training.md": "models/biformer/test_recipe_commands.py",
}
COMMANDS = {page: [] if page.name in OWN_TESTS else commands for page, commands in COMMANDS.items()}

# What a page's Python does, and what is run in its place.
PYTHON_REPLACED = {
    # one epoch instead of thirty
    'work_dir="work_dirs/nano")': 'work_dir="work_dirs/nano", options={"train_cfg.max_epochs": 1})',
    # IPython comes with a notebook, not with visionsparse: that the file is a picture is what can be seen without
    "from IPython.display import Image\n": "from PIL.Image import open as Image\n",
}


def script_of(page: Path) -> str:
    """The page as one Python file."""
    parts = []
    for language, text in blocks_of(page):
        if language == "python":
            for old, new in PYTHON_REPLACED.items():
                text = text.replace(old, new)
            for old, new in REPLACED.items():
                text = re.sub(old, new, text)
            parts.append(text)
        elif language == "bash":
            for command in commands_of(text):
                if command in COMMANDS[page] and command not in SETUPS:
                    parts.append(f"import subprocess\nsubprocess.run({shortened(command)!r}, check=True)\n")
    return "\n".join(parts)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("reader"))


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, id=page.stem, marks=[pytest.mark.slow] if COMMANDS[page] else []) for page in PAGES],
)
def test_a_page_runs_from_top_to_bottom(page: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    place = request.getfixturevalue("folder") if COMMANDS[page] else tmp_path
    script = place / f"{page.stem}.py"
    script.write_text(script_of(page))
    found = [str(DOCS.parent), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, found)), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, script], cwd=place, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_of_a_page_is_a_tool_or_a_known_setup(page: Path) -> None:
    tools = {path.stem.replace("_", "-") for path in TOOLS.glob("*.py")}
    for command in COMMANDS[page]:
        assert command in SETUPS or tool_of(command) in tools, f"{page.name}: {command}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("name", OWN_TESTS)
def test_a_page_with_tests_of_its_own_has_them(name: str) -> None:
    own = Path(__file__).parent / OWN_TESTS[name]
    assert not (DOCS / name).exists() or f"docs/{name}" in own.read_text()


def test_the_index_names_every_page() -> None:
    index = (DOCS / "README.md").read_text()
    assert [page.name for page in PAGES if page.name != "README.md" and f"({page.name})" not in index] == []


@pytest.mark.parametrize("old", PYTHON_REPLACED)
def test_what_is_replaced_is_still_there(old: str) -> None:
    assert any(old in page.read_text() for page in PAGES)
