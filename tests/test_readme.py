"""The README's commands and snippets are run as a reader would run them, in a folder with the files that they name."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
COMMANDS = [line for kind, text in BLOCKS if kind == "bash" for line in text.splitlines() if line]
SNIPPETS = [text for kind, text in BLOCKS if kind == "python"]
SETUPS = ["bash scripts/quickstart.sh", "bash scripts/test.sh", "pip install -c constraints.txt ."]

# What keeps a training short: two epochs of one batch each on a few images' worth of work.
SHORT = "train_cfg.max_epochs=1 train_dataloader.batch_size=512 param_scheduler=[]"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with what the README's reader has: a photo, a published checkpoint, ImageNet, images of their own."""
    import visionsparse as vs

    folder = tmp_path_factory.mktemp("reader")
    generator = torch.Generator().manual_seed(0)

    def photo(path, size):
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = torch.randint(256, (*size, 3), dtype=torch.uint8, generator=generator)
        Image.fromarray(pixels.numpy()).save(path)

    photo(folder / "cat.jpg", (240, 320))
    from timm.data import ImageNetInfo

    for place in ("data/imagenet/val", "disks/imagenet/val"):
        wnids = sorted(ImageNetInfo().label_names())
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


def run(command, folder):
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, f"{shlex.join(map(str, command))}\n{done.stdout}{done.stderr}"
    return done.stdout


def shortened(command):
    """The command with its training cut short and the reader's absolute paths below the folder."""
    words = shlex.split(command.replace("/disks/", "disks/"))
    if "train" in command.split("--")[0] or "tools.train" in command:
        words = [word for word in words if "max_epochs" not in word]
        extra = SHORT.split()
        words += extra if "--cfg-options" in words else ["--cfg-options", *extra]
    if "test" in words:
        extra = ["test_dataloader.dataset.allow_empty=True", "test_dataloader.num_workers=0"]
        words += extra if "--cfg-options" in words else ["--cfg-options", *extra]
    program = Path(sys.executable).parent / words[0]
    return [str(program), *words[1:]]


def test_every_command_is_one_of_ours_or_a_setup():
    assert len(COMMANDS) > 8
    for command in COMMANDS:
        assert command in SETUPS or command.split()[0] in ("visionsparse", "torchrun")


@pytest.mark.slow
def test_the_commands_work_in_their_order(folder):
    nano = folder / "work_dirs/nano"
    for command in COMMANDS:
        if command in SETUPS:
            continue
        run(shortened(command), folder)
        if nano.is_dir():  # the README speaks of the checkpoint of a whole run
            shutil.copy(nano / "epoch_1.pth", nano / "epoch_30.pth") if not (nano / "epoch_30.pth").exists() else None
    assert (nano / "curves.png").is_file()
    assert (folder / "tiny.json").is_file()


@pytest.mark.parametrize("index", range(len(SNIPPETS)))
def test_a_snippet_runs(folder, index):
    run([sys.executable, "-c", SNIPPETS[index]], folder)


def test_the_ci_script_runs_the_readmes_test_command():
    assert "\nbash scripts/test.sh\n" in (ROOT / ".ci/run").read_text()


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)#]+)\)", README))))
def test_a_link_leads_somewhere(target):
    assert target.startswith("https://") or (ROOT / target).exists()


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The checkout without what git ignores, as a clone would be."""
    copy = tmp_path_factory.mktemp("clone")
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listing.stdout.decode().split("\0")):
        target = copy / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target, follow_symlinks=False)
    return copy


@pytest.mark.slow
def test_the_quickstart_sets_up_trains_to_98_percent_and_leaves_pictures(copy):
    run(["bash", "scripts/quickstart.sh"], copy)
    out = copy / "work_dirs/quickstart"
    result = json.loads((out / "results.json").read_text())
    assert result["num_images"] == 360
    assert result["top1"] >= 98.0
    (prediction,) = json.loads((out / "prediction.json").read_text())
    assert prediction["class_name"] == "3"
    for picture in ("curves.png", "pictures/predictions.png"):
        with Image.open(out / picture) as image:
            assert min(image.size) >= 300
