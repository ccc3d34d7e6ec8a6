"""What running the documentation takes: a folder as its reader has it, and commands cut to seconds.

Each cut is one entry of the tables below; everything else in a command is run as it is written.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import torch
from PIL import Image

# What is not ours to run, or is run by a test of its own (tests/test_readme.py runs the two scripts).
SETUPS = ["bash scripts/quickstart.sh", "bash scripts/test.sh", "pip install -c constraints.txt ."]

# Placeholders that a reader replaces, and runs that are too long: pattern -> what is run in its place.
REPLACED = {
    r"/disks/": "disks/",  # the reader's absolute path, below the folder
    r"--nproc-per-node [3-9]\d*": "--nproc-per-node 2",  # as many GPUs as the machine has cores
    r" ?train_cfg\.max_epochs=\d+": "",  # one epoch below
    r"epoch_30\.pth": "epoch_1.pth",  # the checkpoint of a whole run
}

# Options that a command of a tool gets: one epoch of few large batches; a validation set with empty class folders.
ADDED = {
    "train": "train_cfg.max_epochs=1 train_dataloader.batch_size=512 param_scheduler=[]",
    "test": "test_dataloader.dataset.allow_empty=True test_dataloader.num_workers=0",
}
FLAGS = {"analyze": "--seconds 0.2"}  # for timing a setting, instead of 5
_NOT_OF_THE_DIGITS = {"test"}  # Digits, which is always whole, takes no allow_empty


def blocks_of(page: Path) -> list[tuple[str, str]]:
    """(language, text) of the fenced blocks of a Markdown file; "sh" counts as "bash"."""
    found = re.findall(r"^```(\w+)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    return [("bash" if language == "sh" else language, text) for language, text in found]


def commands_of(text: str) -> list[str]:
    """The commands of a bash block, one a line; lines that end in a backslash go on, and comments are left out."""
    lines = text.replace("\\\n", " ").splitlines()
    return [line for line in map(str.strip, lines) if line and not line.startswith("#")]


def tool_of(command: str) -> str | None:
    """The tool that a command runs (`train`); None where it is no tool of ours."""
    found = re.match(r"visionsparse ([\w-]+)|torchrun .*-m visionsparse\.tools\.(\w+)", command)
    return (found[1] or found[2].replace("_", "-")) if found else None


def shortened(command: str) -> list[str]:
    """The words that are run for a command: replaced and added to as the tables say, the program by its full path."""
    for pattern, replacement in REPLACED.items():
        command = re.sub(pattern, replacement, command)
    words = shlex.split(command)
    tool = tool_of(command)
    added = [] if tool in _NOT_OF_THE_DIGITS and "digits" in command else ADDED.get(tool or "", "").split()
    if added:
        words += added if "--cfg-options" in words else ["--cfg-options", *added]
    words += FLAGS.get(tool or "", "").split()
    return [str(Path(sys.executable).parent / words[0]), *words[1:]]


def run(command: list[str], folder: Path) -> str:
    """What a command that must succeed in `folder` prints."""
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, f"{shlex.join(map(str, command))}\n{done.stdout}{done.stderr}"
    return done.stdout


def make_folder(folder: Path) -> Path:
    """Fills `folder` with what the reader has: a photo, a published checkpoint, ImageNet, images of their own."""
    import visionsparse as vs

    generator = torch.Generator().manual_seed(0)

    def photo(path: Path, size: tuple[int, int]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = torch.randint(256, (*size, 3), dtype=torch.uint8, generator=generator)
        Image.fromarray(pixels.numpy()).save(path)

    photo(folder / "cat.jpg", (240, 320))
    from timm.data import ImageNetInfo

    wnids = sorted(ImageNetInfo().label_names())
    for place in ("data/imagenet/val", "disks/imagenet/val"):
        for wnid in wnids[:2]:
            photo(folder / place / wnid / "1.JPEG", (240, 320))
        for wnid in wnids[2:]:
            (folder / place / wnid).mkdir()
    for split in ("train", "val"):
        for name in ("cat", "dog", "owl"):
            for number in range(4):
                photo(folder / "data/mine" / split / name / f"{number}.png", (32, 32))
    torch.save({"model": vs.create_model("biformer_tiny").state_dict()}, folder / "biformer_tiny_in1k.pth")
    return folder
