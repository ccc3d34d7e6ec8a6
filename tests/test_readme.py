"""The README's commands and snippets are run as a reader would run them, in a folder with the files that they name."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.reader import SETUPS, blocks_of, commands_of, make_folder, run, shortened, tool_of

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = blocks_of(ROOT / "README.md")
COMMANDS = [command for language, text in BLOCKS if language == "bash" for command in commands_of(text)]
SNIPPETS = [text for language, text in BLOCKS if language == "python"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("reader"))


def test_every_command_is_one_of_ours_or_a_setup():
    assert len(COMMANDS) > 8
    for command in COMMANDS:
        assert command in SETUPS or tool_of(command)


@pytest.mark.slow
def test_the_commands_work_in_their_order(folder):
    for command in COMMANDS:
        if command not in SETUPS:
            run(shortened(command), folder)
    assert (folder / "work_dirs/nano/curves.png").is_file()
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
@pytest.mark.longest
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
