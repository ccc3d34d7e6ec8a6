"""docs/reliability.md names a test for each promise: each of them exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROWS = re.findall(r"^\| (.+) \| (tests/\S+)::(\w+) \|$", (ROOT / "docs/reliability.md").read_text(), re.MULTILINE)


def test_the_table_of_promises_is_found():
    assert len(ROWS) > 30
    promises = (ROOT / "docs/reliability.md").read_text().partition("## Promises")[2]
    assert promises.count("\n| ") == len(ROWS) + 2  # the table's head


@pytest.mark.parametrize(("promise", "path", "name"), ROWS)
def test_the_test_of_a_promise_exists(promise, path, name):
    tree = ast.parse((ROOT / path).read_text())
    assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}, promise
