"""Commands of the pages that name what a reader replaces (CONFIG, HOST) run too, each in a folder of its own: with a
small config and images, two processes for eight, one machine for four, and nothing else changed.
"""

from __future__ import annotations

import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import visionsparse as vs
from tests.engine.tiny import write_images

ROOT = Path(__file__).parents[1]
PAGES = ("docs/reliability.md", "docs/scale.md", "data/README.md")

CONFIG = """
_base_ = ["{base}"]
model = dict(backbone=dict(num_classes=3))
train_dataloader = dict(dataset=dict(type="ImageNet", data_root="images"))
val_dataloader = dict(dataset=dict(type="ImageNet", data_root="images"))
test_dataloader = dict(dataset=dict(type="ImageNet", data_root="images"), num_workers=0)
"""

REPLACED = {
    r"^srun ": "",
    r"\bCONFIG\b|biformer/biformer_tiny_in1k|(?<=infer )biformer_tiny\b": "small.py",
    r"\bCHECKPOINT\b|\btiny\.pth|/shared/tiny/epoch_300\.pth|work_dirs/NAME/epoch_12\.pth": "small.pth",
    r"/shared/": "shared/",
    r"/disks/imagenet|\bphotos\b": "images",
    r"--nproc-per-node 8": "--nproc-per-node 2",
    r'--nnodes (4|"\$SLURM_NNODES")': "--nnodes 1",
    r'HOST:29400|"\$host:29400"': "localhost:{port}",
    r'"\$SLURM_JOB_ID"': "1",
    r"--kills 50": "--kills 3",
}


def commands_of(page: str) -> list[str]:
    lines = (ROOT / page).read_text().replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if re.match(r"    (srun |torchrun |visionsparse )", line)]


COMMANDS = [command for page in PAGES for command in commands_of(page)]


def run_as(command: str, port: int) -> list[str]:
    for pattern, replacement in REPLACED.items():
        command = re.sub(pattern, replacement, command)
    words = shlex.split(command.format(port=port))
    return [str(Path(sys.executable).parent / words[0]), *words[1:]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "small.py").write_text(CONFIG.format(base=ROOT / "configs/biformer/biformer_nano_soak.py"))
    write_images(tmp_path / "images")
    torch.manual_seed(0)
    net = vs.create_model("biformer_nano", depths=(1, 1), embed_dims=(32, 64), num_classes=3)
    weights = {f"backbone.{name}": tensor for name, tensor in net.state_dict().items()}
    torch.save({"state_dict": weights}, tmp_path / "small.pth")
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_with_placeholders_runs(folder: Path, command: str) -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    done = subprocess.run(run_as(command, port), cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_pages_show_their_commands() -> None:
    assert len(COMMANDS) >= 12


@pytest.mark.parametrize("pattern", REPLACED)
def test_what_is_replaced_is_still_there(pattern: str) -> None:
    assert any(re.search(pattern, command) for command in COMMANDS)
