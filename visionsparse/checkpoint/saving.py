"""Saves checkpoints whole or not at all, and says why one can't be saved."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from visionsparse.errors import CheckpointError
from visionsparse.files import free_space, whole_file


def save_checkpoint(obj: Any, path: str | Path) -> None:
    """Saves `obj` so that `path` holds the whole new file or the whole former one, whatever happens meanwhile.

    Args:
        obj: what `torch.save` takes; for a `.safetensors` path a flat dict of tensors.
        path: the file; its folder is made if need be.

    Raises:
        CheckpointError: can't be written (a full disk, a read-only folder); the former file is untouched.
    """
    path = Path(os.path.realpath(path))
    noting: _NotingErrors | None = None
    try:
        with whole_file(path) as file:
            noting = _NotingErrors(file)
            _write(obj, noting, path)
    except BaseException as error:
        # torch.save reports a full disk as an internal error of its zip writer
        problem = noting.problem if noting and noting.problem else error
        if not isinstance(problem, OSError):
            raise
        raise CheckpointError(
            f"{path}: can't be saved: {problem.strerror or problem}.{free_space(path.parent)} "
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
