import errno
import signal
import subprocess
import sys

import pytest

from visionsparse import cli
from visionsparse.errors import UserError


def run_python(script, cwd=None):
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=cwd)


def exit_code_of(call, *args):
    with pytest.raises(SystemExit) as caught:
        call(*args)
    return caught.value.code


def test_help_lists_every_tool_with_its_summary(capsys):
    assert exit_code_of(cli.main, ["--help"]) == 0
    shown = capsys.readouterr().out
    for tool in ("train", "test", "infer"):
        line = next(line for line in shown.splitlines() if line.strip().startswith(f"{tool} "))
        assert len(line.split()) > 3


@pytest.mark.parametrize("tool", sorted(path.stem for path in cli.TOOLS.glob("*.py") if path.stem != "__init__"))
def test_every_tool_has_help_with_an_example(tool, capsys):
    assert exit_code_of(cli.main, [tool, "--help"]) == 0
    assert f"visionsparse {tool.replace('_', '-')} " in capsys.readouterr().out


def test_a_mistyped_tool_names_the_near_miss(capsys):
    assert exit_code_of(cli.main, ["trian"]) == 2
    assert capsys.readouterr().err == "visionsparse: 'trian' is not a tool. Did you mean 'train'?\n"


def test_a_mistyped_flag_names_the_near_miss(capsys):
    assert exit_code_of(cli.main, ["train", "biformer/biformer_nano_digits", "--work-dri", "x"]) == 2
    error = capsys.readouterr().err
    assert "--work-dri" in error
    assert "Did you mean '--work-dir'" in error


def test_a_flag_is_never_abbreviated(capsys):
    assert exit_code_of(cli.main, ["train", "biformer/biformer_nano_digits", "--work", "x"]) == 2


def test_a_user_error_becomes_one_line_and_exit_code_2(capsys):
    def tool(argv):
        raise UserError("train/3: no image.")

    assert exit_code_of(cli.run, tool, []) == 2
    assert capsys.readouterr().err == "visionsparse: train/3: no image.\n"


def test_a_full_disk_becomes_one_line_and_exit_code_2(capsys):
    def tool(argv):
        raise OSError(errno.ENOSPC, "No space left on device", "results.json")

    assert exit_code_of(cli.run, tool, []) == 2
    error = capsys.readouterr().err
    assert error.startswith("visionsparse: results.json: can't be written: No space left on device. ")
    assert error.count("\n") == 1


def test_anything_else_stays_a_traceback():
    def tool(argv):
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        cli.run(tool, [])


@pytest.mark.parametrize(
    ("number", "code", "line"),
    [(signal.SIGINT, 130, "visionsparse: interrupted\n"), (signal.SIGTERM, 143, "visionsparse: terminated\n")],
)
def test_ctrl_c_and_sigterm_are_one_line_and_run_what_is_in_finally(number, code, line, capsys):
    former = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    cleared_up = []

    def tool(argv):
        try:
            signal.raise_signal(number)
        finally:
            cleared_up.append(True)

    try:
        assert exit_code_of(cli.run, tool, []) == code
    finally:
        signal.signal(signal.SIGINT, former[0])
    assert capsys.readouterr().err == line
    assert cleared_up
    assert signal.getsignal(signal.SIGTERM) == former[1]


def test_options_are_read_as_python_literals_or_text():
    pairs = cli.key_value_pairs(["a.lr=1e-4", "b=(1, 4)", "c=cosine", "d=true", "e=None"])
    assert pairs == {"a.lr": 1e-4, "b": (1, 4), "c": "cosine", "d": True, "e": None}


@pytest.mark.parametrize("word", ["lr", "=3"])
def test_an_option_without_a_key_or_a_value_is_refused(word):
    with pytest.raises(UserError, match="expected KEY=VALUE"):
        cli.key_value_pairs([word])


def test_help_does_not_import_torch():
    script = (
        "import sys\n"
        "from visionsparse import cli\n"
        "try:\n    cli.main(['--help'])\n"
        "except SystemExit:\n    pass\n"
        "print([m for m in ('torch', 'mmengine', 'timm', 'numpy') if m in sys.modules])"
    )
    assert run_python(script).stdout.splitlines()[-1] == "[]"


def test_importing_the_package_brings_nothing_heavy():
    script = (
        "import sys, visionsparse\n"
        "print([m for m in ('torch', 'mmengine', 'timm', 'torchvision', 'triton', 'cv2') if m in sys.modules])"
    )
    assert run_python(script).stdout.strip() == "[]"


def test_the_ops_bring_torch_and_nothing_else():
    script = (
        "import sys, torch\n"
        "before = set(sys.modules)\n"
        "from visionsparse import ops\n"
        "new = {m.split('.')[0] for m in set(sys.modules) - before}\n"
        "print([m for m in ('mmengine', 'timm', 'torchvision', 'triton', 'cv2', 'PIL', 'yaml') if m in new])"
    )
    assert run_python(script).stdout.strip() == "[]"


def test_creating_a_model_brings_neither_timm_nor_torchvision_nor_a_runner():
    script = (
        "import sys, visionsparse as vs\n"
        "vs.create_model('biformer_nano')\n"
        "print([m for m in ('timm', 'torchvision', 'mmengine.runner', 'mmengine.model', 'cv2') if m in sys.modules])"
    )
    assert run_python(script).stdout.strip() == "[]"


def test_the_public_names_are_there_and_listed():
    import visionsparse as vs

    for name in vs.__all__:
        assert getattr(vs, name) is not None
        assert name in dir(vs)
    with pytest.raises(AttributeError, match="no attribute 'create_modle'"):
        vs.create_modle  # noqa: B018
