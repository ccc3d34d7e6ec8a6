"""Fuzzes the reading of checkpoints: whatever the bytes, one line of CheckpointError or a load, and nothing else.

For who wants a million (pip install atheris; a folder of whole checkpoints is a good start):

  python tests/fuzz/checkpoint.py [FOLDER] [libFuzzer's options, such as -runs=1000000 -max_len=4096]

The tests run the same judge, without atheris, in a process of its own:

  python tests/fuzz/checkpoint.py --each FILE...     # one line of JSON a file
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import sys
import tempfile
from pathlib import Path

import safetensors.torch  # noqa: F401  (before the first measurement)
import torch

try:
    import atheris
except ImportError:
    atheris = None

with atheris.instrument_imports(include=["visionsparse.checkpoint"]) if atheris else contextlib.nullcontext():
    from visionsparse.checkpoint import load_checkpoint
from visionsparse.errors import CheckpointError

WEIGHT, BIAS = torch.arange(6.0).reshape(2, 3), torch.tensor([7.0, 8.0])  # what a whole file holds
SPARE_MEMORY = 256 * 2**10  # KiB that reading may take beyond twice the file

# What reading a file never does; see https://docs.python.org/3/library/audit_events.html
_FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "os.remove", "os.rename", "os.mkdir")
_FORBIDDEN += ("subprocess.Popen", "socket.connect", "pickle.find_class", "ctypes.dlopen", "webbrowser.open")

_libc = ctypes.CDLL(None)
_model = torch.nn.Linear(3, 2)
_own = {name: tensor.clone() for name, tensor in _model.state_dict().items()}
_seen: list[str] = []


def digest(weight: torch.Tensor, bias: torch.Tensor) -> str:
    """Tells weights apart by their bits."""
    return hashlib.sha256(weight.detach().numpy().tobytes() + bias.detach().numpy().tobytes()).hexdigest()


def judge(path: Path) -> dict[str, object]:
    """Loads the file into a small model.

    Returns: `outcome`, "loaded" or the error's message; `weights`, the digest of what was loaded; `memory`, KiB by
        which the process was larger at its largest than before.

    Raises:
        AssertionError: a promise was broken. Any other error but CheckpointError passes through.
    """
    _seen.clear()
    weights = None
    before = _resident_memory(forget_peak=True)
    try:
        load_checkpoint(_model, path)
    except CheckpointError as error:
        outcome = str(error)
        assert "\n" not in outcome and outcome.isprintable(), f"more than a plain line: {outcome!r}"
        assert str(path) in outcome, f"names no file: {outcome}"
        assert len(outcome) < 1200, f"a line of {len(outcome)} letters: {outcome[:1200]}"
        touched = [name for name, tensor in _model.state_dict().items() if not torch.equal(tensor, _own[name])]
        assert not touched, f"touched the model: {touched}"
    else:
        outcome, weights = "loaded", digest(_model.weight, _model.bias)
    finally:
        _model.load_state_dict(_own)
    memory = _resident_memory() - before
    assert memory <= 2 * path.stat().st_size // 2**10 + SPARE_MEMORY, f"took {memory // 2**10} MiB: {outcome}"
    assert not _seen, f"did {_seen}: {outcome}"
    return {"outcome": outcome, "weights": weights, "memory": memory}


def TestOneInput(data: bytes) -> dict[str, object]:
    """Judges a file of these bytes."""
    with tempfile.NamedTemporaryFile(suffix=".pth") as file:
        file.write(data)
        file.flush()
        return judge(Path(file.name))


def _resident_memory(forget_peak: bool = False) -> int:
    """KiB at the largest since the peak was last forgotten."""
    if forget_peak:
        _libc.malloc_trim(0)  # what an earlier file took would hide what this one takes
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def _watch(event: str, _: tuple[object, ...]) -> None:
    if event in _FORBIDDEN:
        _seen.append(event)


def main(argv: list[str]) -> int:
    """Judges each file of `--each FILE...`; else fuzzes until something breaks."""
    sys.addaudithook(_watch)
    if argv[1:2] == ["--each"]:
        for name in argv[2:]:
            try:
                verdict = judge(Path(name))
            except Exception as error:
                verdict = {"outcome": f"broke a promise: {type(error).__name__}: {error}"}
            print(json.dumps({"file": Path(name).name, **verdict}), flush=True)
        return 0
    if atheris is None:
        print("fuzzing needs atheris: pip install atheris", file=sys.stderr)
        return 2
    atheris.Setup(argv, TestOneInput)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
