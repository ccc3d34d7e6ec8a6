"""The documentation's Python snippets run, each in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
SNIPPETS = [
    pytest.param(code, id=f"{path.name}:{number}")
    for path in sorted(DOCS.glob("**/*.md"))
    for number, code in enumerate(re.findall(r"^```python\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL), 1)
]


@pytest.mark.parametrize("code", SNIPPETS)
def test_a_snippet_of_the_docs_runs(code: str, tmp_path: Path) -> None:
    found = [str(DOCS.parent), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, found)), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
