"""Saves checkpoints whole or not at all: a temporary file in the same folder, synced, then renamed over the former."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from visionsparse.errors import CheckpointError

TEMPORARY_SUFFIX = ".visionsparse-tmp"  # a killed process leaves `.NAME.XXXX.visionsparse-tmp` behind: safe to sweep


def save_checkpoint(obj: Any, path: str | Path) -> None:
    """Saves `obj` so that `path` holds the whole new file or the whole former one, whatever happens meanwhile.

    Args:
        obj: what `torch.save` takes; for a `.safetensors` path a flat dict of tensors.
        path: the file; its folder is made if need be.

    Raises:
        CheckpointError: can't be written (a full disk, a read-only folder); the former file is untouched.
    """
    path = Path(os.path.realpath(path))  # a link stays a link
    temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}"
    problem: OSError | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # 0666 less the umask, as any new file; tempfile would give 0600
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "wb") as file:
            noting = _NotingErrors(file)
            try:
                _write(obj, noting, path)
            finally:
                problem = noting.problem  # torch.save reports a full disk as an internal error of its zip writer
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        problem = problem or (error if isinstance(error, OSError) else None)
        if problem is None:
            raise
        raise CheckpointError(
            f"{path}: can't be saved: {problem.strerror or problem}.{_free_space(path.parent)} "
            "Free some space or choose another folder; a former file of that name is untouched."
        ) from error


class _NotingErrors:
    """A file that remembers why it could not be written to."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.problem: OSError | None = None
        self.flush = file.flush

    def write(self, data: Any) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.problem = error
            raise


def _write(obj: Any, file: Any, path: Path) -> None:
    if path.suffix != ".safetensors":
        torch.save(obj, file)
        return
    if not isinstance(obj, Mapping) or not all(isinstance(value, Tensor) for value in obj.values()):
        raise CheckpointError(f"{path}: got no flat dict of tensors, which is all safetensors holds: save it as .pth.")
    import safetensors.torch

    # clones: safetensors refuses tensors that share memory, as tied weights do
    file.write(safetensors.torch.save({name: tensor.detach().clone().contiguous() for name, tensor in obj.items()}))


def _sync_folder(folder: Path) -> None:
    """Makes the rename itself survive a power cut, where the file system can (the file is in its place already)."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _free_space(folder: Path) -> str:
    try:
        return f" {shutil.disk_usage(folder).free // 2**20} MiB are free there."
    except OSError:
        return ""
