"""A new system is its own folders under models/, configs/ and tests/, and no list anywhere names it.

tests/made_up holds the least that a system can be. It is put into a copy of the library, of which nothing else is
changed; the copy must know it everywhere, and the tests of every model must take it in.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from visionsparse.zoo import SYSTEMS

ROOT = Path(__file__).parents[1]
MADE_UP = Path(__file__).parent / "made_up"


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """The library and its tests, with the made-up system's two folders in their places."""
    copy = tmp_path_factory.mktemp("copy")
    ignored = shutil.ignore_patterns("__pycache__", "cases", "made_up")
    shutil.copytree(ROOT / "visionsparse", copy / "visionsparse", ignore=ignored)  # links become folders
    shutil.copytree(ROOT / "tests", copy / "tests", ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", copy)
    for room in ("models", "configs"):
        shutil.copytree(MADE_UP / room, copy / "visionsparse" / room, dirs_exist_ok=True, ignore=ignored)
    return copy


def python(copy: Path, *words: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *words], cwd=copy, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_names_configs_registries_and_timm_know_it(copy):
    script = (
        "import json, timm, visionsparse as vs\n"
        "from mmengine.registry import MODELS\n"
        "from visionsparse.config import list_configs\n"
        "built = [vs.create_model('thimble_s'), timm.create_model('thimble_s')]\n"
        "built.append(MODELS.build(dict(type='visionsparse.thimble_s')))\n"
        "known = vs.list_models('thimble*', task='classification'), list_configs()\n"
        "print(json.dumps([*known, [type(net).__name__ for net in built]]))\n"
    )
    models, configs, built = json.loads(python(copy, "-c", script).splitlines()[-1])

    assert models == ["thimble_s"]
    assert "thimble/thimble_s_digits" in configs
    assert built == ["Thimble"] * 3


def test_the_tools_know_it(copy):
    shown = python(copy, "-m", "visionsparse.tools.list_models", "thimble*")
    assert re.search(r"thimble_s +classification +17,976 .* 12\.3", shown)


def test_the_tests_of_every_model_take_it_in(copy):
    files = ["tests/models/test_every_model.py", "tests/models/test_timm.py", "tests/tools/test_list_models.py"]
    files += ["tests/test_zoo.py", "tests/engine/test_configs.py"]

    shown = python(copy, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "thimble and not compiles", *files)

    assert int(re.search(r"(\d+) passed", shown)[1]) > 30


def words_of_code(path: Path) -> Iterator[str]:
    """Names, and strings that are no prose: what code can act on."""
    for node in ast.walk(ast.parse(path.read_text())):
        for field in ("id", "attr", "name", "module", "arg"):
            if isinstance(getattr(node, field, None), str):
                yield getattr(node, field)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and not re.search(r"\s", node.value.strip()):
            yield node.value


@pytest.mark.parametrize("system", sorted(path.parent.name for path in SYSTEMS.glob("*/metafile.yml")))
def test_no_code_of_the_library_or_the_tools_names_a_system(system):
    rooms = [path for room in ("visionsparse", "tools") for path in (ROOT / room).rglob("*.py")]
    naming = {
        str(path.relative_to(ROOT))
        for path in rooms
        if not {"models", "configs"} & set(path.relative_to(ROOT).parts)
        and any(system in word.lower() for word in words_of_code(path))
    }
    assert naming == set()
