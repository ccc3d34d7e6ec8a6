"""`test` and `infer` on 1, 2 and 4 processes that are killed with -9 in the middle: the same bytes, nothing twice."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.engine.tiny import TinyNet, tiny_config, write_config, write_images

pytestmark = pytest.mark.slow
CHECKOUT = Path(__file__).parents[2]
BATCHES = 9  # of 2 images

# Runs a tool with a net that appends a line to `forwards` each time, and kills its process at the given line.
SCRIPT = """
import os, signal, sys
from pathlib import Path
from tests.engine.tiny import TinyNet
from visionsparse.cli import main

forward, log = TinyNet.forward, Path("forwards")

def counting(self, x):
    with log.open("ab", buffering=0) as file:
        file.write(b"forward\\n")
        number = file.tell() // 8  # of this line, also where two processes write at once
    if number == int(os.environ["KILL_AT"]):
        os.kill(os.getpid(), signal.SIGKILL)
    return forward(self, x)

TinyNet.forward = counting
main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    config = tiny_config(write_images(folder / "images"))
    config["test_dataloader"]["batch_size"] = 2
    write_config(folder / "tiny.py", config)
    torch.manual_seed(0)
    torch.save({"state_dict": {f"backbone.{k}": v for k, v in TinyNet().state_dict().items()}}, folder / "c.pth")
    (folder / "run.py").write_text(SCRIPT)
    return folder


def run(folder: Path, processes: int, *words: str, kill_at: int = 0, restarts: int = 0) -> subprocess.CompletedProcess:
    """One process without a launcher, more under torchrun."""
    launcher = f"-m torch.distributed.run --standalone --nproc-per-node {processes} --max-restarts {restarts}".split()
    (folder / "forwards").write_text("")
    return subprocess.run(
        [sys.executable, *(launcher if processes > 1 else []), "run.py", *words, "--device", "cpu"],
        cwd=folder,
        env=environment(kill_at),
        capture_output=True,
        text=True,
    )


def environment(kill_at: int) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1", "KILL_AT": str(kill_at)}


def forwards(folder: Path) -> int:
    return len((folder / "forwards").read_text().split())


@pytest.fixture(scope="module")
def expected(folder):
    """The JSON of one process that nobody kills."""
    done = run(folder, 1, "test", "tiny.py", "c.pth", "--out", "expected.json")
    assert done.returncode == 0, done.stderr
    assert forwards(folder) == BATCHES
    assert json.loads((folder / "expected.json").read_text())["num_images"] == 2 * BATCHES
    return (folder / "expected.json").read_bytes()


@pytest.mark.parametrize(("processes", "then"), [(1, 2), (2, 1), (4, 4)])
def test_killed_and_started_again_on_any_number_of_processes_it_writes_the_same_bytes(
    folder, expected, processes, then
):
    out = folder / f"{processes}_{then}.json"
    killed = run(folder, processes, "test", "tiny.py", "c.pth", "--out", out.name, kill_at=5)
    assert killed.returncode not in (0, 2)
    assert not out.exists()
    finished = len(list(Path(f"{out}.parts").glob("*.parquet")))

    done = run(folder, then, "test", "tiny.py", "c.pth", "--out", out.name)

    assert done.returncode == 0, done.stderr
    assert out.read_bytes() == expected
    assert forwards(folder) == BATCHES - finished
    assert processes > 1 or finished == 4
    assert not Path(f"{out}.parts").exists()


def test_torchrun_starts_a_killed_process_again_and_the_evaluation_goes_on(folder, expected):
    done = run(folder, 2, "test", "tiny.py", "c.pth", "--out", "restarted.json", kill_at=5, restarts=1)

    assert done.returncode == 0, done.stderr
    assert (folder / "restarted.json").read_bytes() == expected
    assert "parts are finished, going on" in done.stdout
    # the two batches that were in the works may be computed twice, no others
    assert BATCHES < forwards(folder) <= BATCHES + 2


def test_two_launchers_as_on_two_machines_start_a_killed_process_again(folder, expected):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    words = "-m torch.distributed.run --nnodes 2 --nproc-per-node 1 --max-restarts 1 --rdzv-backend c10d --rdzv-id x"
    words = f"{words} --rdzv-endpoint localhost:{port} run.py test tiny.py c.pth --out machines.json --device cpu"
    (folder / "forwards").write_text("")
    env = {**environment(kill_at=5), "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    launchers = [subprocess.Popen([sys.executable, *words.split()], cwd=folder, env=env) for _ in range(2)]

    assert [launcher.wait() for launcher in launchers] == [0, 0]
    assert (folder / "machines.json").read_bytes() == expected
    assert BATCHES < forwards(folder) <= BATCHES + 2


def test_infer_killed_on_two_processes_goes_on_and_writes_the_bytes_of_one(folder):
    from PIL import Image

    (folder / "many").mkdir()
    for number in range(130):  # five batches
        Image.new("RGB", (32, 32), (number, 2 * number % 256, 90)).save(folder / f"many/{number:03}.png")
    words = ["infer", "tiny.py", "many", "--checkpoint", "c.pth", "--json"]
    one = run(folder, 1, *words, "one.json")
    assert one.returncode == 0, one.stderr

    killed = run(folder, 2, *words, "two.json", kill_at=3)
    finished = len(list((folder / "two.json.parts").glob("*.parquet")))
    two = run(folder, 2, *words, "two.json")

    assert killed.returncode == 1
    assert two.returncode == 0, two.stderr
    assert (folder / "two.json").read_bytes() == (folder / "one.json").read_bytes()
    assert forwards(folder) == 5 - finished
    assert two.stdout.count("129.png") == 1
