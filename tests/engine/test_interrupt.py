"""Signals to `visionsparse test` and `infer` while they run, in processes of their own, with data workers."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from visionsparse.apis import init_model

pytestmark = pytest.mark.slow
CONFIG = "biformer/biformer_nano_digits"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Weights, and the digits (written by the first command that is asked for them)."""
    folder = tmp_path_factory.mktemp("interrupt")
    torch.save({"state_dict": init_model(CONFIG, device="cpu").state_dict()}, folder / "c.pth")
    from visionsparse.datasets.digits import write_digits

    write_digits(folder / "data/digits")
    return folder


def started(folder: Path, *words: str, **kwargs) -> subprocess.Popen:
    """`visionsparse WORDS`, in a process group of its own, as a shell starts it."""
    return subprocess.Popen(
        [sys.executable, "-u", "-c", "from visionsparse.cli import main; main()", *words],
        cwd=folder,
        start_new_session=True,
        **kwargs,
    )


def processes_of_group(group: int) -> list[str]:
    stats = [path.read_text() for path in Path("/proc").glob("[0-9]*/stat") if path.exists()]
    return [stat for stat in stats if int(stat.rsplit(")", 1)[1].split()[2]) == group]


TEST = [
    "test", CONFIG, "c.pth", "--device", "cpu", "--out", "results.json",
    "--cfg-options", "test_dataloader.batch_size=2", "default_hooks.logger.interval=1",
]  # fmt: skip


@pytest.mark.parametrize(
    ("number", "to_group", "code", "line"),
    [(signal.SIGINT, True, 130, "interrupted"), (signal.SIGTERM, False, 143, "terminated")],
)
def test_a_test_with_workers_ends_in_one_line_without_traceback_worker_or_warning(folder, number, to_group, code, line):
    process = started(folder, *TEST, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert any(re.search(r"iter +3/", shown) for shown in process.stdout)

    (os.killpg if to_group else os.kill)(process.pid, number)
    _, error = process.communicate()

    assert process.returncode == code
    assert error == f"visionsparse: {line}\n"
    assert processes_of_group(process.pid) == []
    assert not (folder / "results.json").exists()
    assert len(list((folder / "results.json.parts").glob("*.parquet"))) >= 2


def test_infer_in_a_terminal_shows_a_bar_and_gives_the_terminal_back_on_ctrl_c(folder):
    ours, theirs = pty.openpty()
    words = ["infer", CONFIG, "data/digits", "--checkpoint", "c.pth", "--device", "cpu", "--json", "a.json"]
    process = started(folder, *words, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)

    shown = ""
    while (more := read(ours)) is not None:
        was_seen = "images/s" in shown
        shown += more
        if "images/s" in shown and not was_seen:
            os.killpg(process.pid, signal.SIGINT)

    assert process.wait() == 130
    assert re.search(r"images \d+/1824.*\d+%.*images/s.*\d:\d\d:\d\d", shown)
    assert shown.rstrip().endswith("visionsparse: interrupted")
    assert "\x1b[?25h" in shown  # the cursor is back
    assert "Traceback" not in shown
    assert list((folder / "a.json.parts").glob("*.parquet"))


def read(terminal: int) -> str | None:
    try:
        return os.read(terminal, 65536).decode(errors="replace") or None
    except OSError:  # how Linux tells that the other side is closed
        return None
