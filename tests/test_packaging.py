"""What `pip install .` gives: built from the sdist, installed where no checkout is near."""

import re
import site
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder with the sdist and the wheel that was made from it."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def python(built, tmp_path_factory):
    """The interpreter of an environment with the wheel and its dependencies, and without the checkout."""
    venv = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    python = venv / "bin/python"
    (wheel,) = built.glob("*.whl")
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", "--no-deps"]
    subprocess.run([*pip, str(wheel)], check=True)
    (packages,) = venv.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()))
    return python


def names_in_wheel(built):
    (wheel,) = built.glob("*.whl")
    return zipfile.ZipFile(wheel).namelist()


def test_the_wheel_holds_code_configs_cards_and_metafiles_and_nothing_else(built):
    names = [name for name in names_in_wheel(built) if ".dist-info/" not in name]
    assert {Path(name).suffix for name in names} <= {".py", ".yml", ".md", ".json", ".typed"}
    assert all(name.startswith("visionsparse/") for name in names)


@pytest.mark.parametrize("room", ["models", "configs", "tools"])
def test_the_wheel_holds_every_tracked_file_of_the_linked_rooms(built, room):
    names = names_in_wheel(built)
    tracked = [path for path in (ROOT / room).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert {f"visionsparse/{path.relative_to(ROOT)}" for path in tracked} == {
        name for name in names if name.startswith(f"visionsparse/{room}/")
    }


def test_the_sdist_holds_no_environment_and_no_output(built):
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = [name.split("/", 1)[1] for name in archive.getnames() if "/" in name]
    assert not [name for name in names if re.match(r"\.venv|work_dirs|data/digits|\.git/", name)]
    assert "visionsparse/py.typed" in names


def test_an_installed_wheel_works_from_any_folder(python, tmp_path):
    script = (
        "import visionsparse as vs, visionsparse.models.biformer, visionsparse.config as config\n"
        "from visionsparse import models\n"
        "print(vs.__file__)\n"
        "print(vs.create_model('biformer_nano', num_classes=3).num_classes)\n"
        "print(config.load_config('biformer/biformer_nano_digits').model.type)\n"
    )
    done = subprocess.run([str(python), "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    where, num_classes, task = done.stdout.split()
    assert where.startswith(str(python.parents[1]))
    assert (num_classes, task) == ("3", "ImageClassifier")


@pytest.mark.parametrize("command", [["visionsparse", "train"], ["python", "-m", "visionsparse.tools.train"]])
def test_every_way_to_call_a_tool_works_from_any_folder(python, tmp_path, command):
    program, *rest = command
    done = subprocess.run([str(python.parent / program), *rest, "--help"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "--work-dir" in done.stdout


def test_the_package_is_never_imported_by_its_short_folder_names():
    """`import models.biformer` from the root would make a second copy of the module."""
    pattern = re.compile(r"^\s*(from|import) (models|configs|tools)\b", re.MULTILINE)
    files = [path for room in ("visionsparse", "models", "tools", "tests") for path in (ROOT / room).rglob("*.py")]
    assert not [str(path) for path in files if pattern.search(path.read_text())]
