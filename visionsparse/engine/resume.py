"""Which checkpoint `--resume` goes on from: the one that `last_checkpoint` names, else the newest that opens."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from visionsparse.checkpoint import read_checkpoint
from visionsparse.engine.checkpoint_hook import POINTER
from visionsparse.errors import CheckpointError, ConfigError


@dataclass
class Resumable:
    """What was found: the file (None if there is none), what is in it, and what to tell the user about the search."""

    path: Path | None = None
    checkpoint: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def meta(self) -> dict[str, Any]:
        """What the checkpoint says of the run that wrote it."""
        return self.checkpoint.get("meta", {})


def find_checkpoint(work_dir: Path, given: str | Path | None = None) -> Resumable:
    """The checkpoint to go on from.

    Args:
        work_dir: where to look.
        given: this file and no other.

    Raises:
        ConfigError: `given` does not exist.
        CheckpointError: `given` does not open, or no training run can go on from it.
    """
    if given is not None:
        if not Path(given).is_file():
            raise ConfigError(f"--resume {given}: no such file. --resume alone takes the newest in {work_dir}.")
        return Resumable(Path(given), read_training_checkpoint(given), [f"resuming from {given}"])
    found = Resumable()
    for path in _candidates(work_dir):
        try:
            found.checkpoint = read_training_checkpoint(path)
        except CheckpointError as error:
            found.notes.append(f"skipped {path.name}: {error}")
            continue
        found.path = path
        found.notes.append(f"resuming from {path}")
        return found
    found.notes.append(f"nothing to resume in {work_dir}: starting from scratch")
    return found


def read_training_checkpoint(path: str | Path) -> dict[str, Any]:
    """A checkpoint with all that training needs to go on.

    Raises:
        CheckpointError: does not open, or lacks something.
    """
    checkpoint = read_checkpoint(path)
    meta = checkpoint["meta"] if isinstance(checkpoint.get("meta"), dict) else {}
    if "mmengine_version" in meta and "visionsparse_version" not in meta:
        raise CheckpointError(
            f"{path}: was saved by mmengine alone: only its weights can be read. Start from them: --load-from {path}"
        )
    wanted = {key: (checkpoint.get(key), dict) for key in ("meta", "state_dict", "optimizer", "message_hub")}
    wanted.update({f"meta.{key}": (meta.get(key), int) for key in ("epoch", "iter")})
    for key, (value, kind) in wanted.items():
        if not isinstance(value, kind):
            raise CheckpointError(
                f"{path}: no {key!r} in it, so training can't go on from it. Start from its weights: --load-from {path}"
            )
    # mmengine runs the text under this key as Python; a file of ours has none
    meta.pop("config", None)
    return checkpoint


def _candidates(work_dir: Path) -> list[Path]:
    """The file that the pointer names, then all others, newest first."""
    numbered = [path for path in work_dir.glob("*.pth") if re.fullmatch(r"(epoch|iter)_\d+\.pth", path.name)]
    newest_first = sorted(numbered, key=lambda path: (path.stat().st_mtime_ns, _number(path)), reverse=True)
    pointer = work_dir / POINTER
    # The name only: the folder may have been moved, or written by mmengine, which puts the whole path there.
    pointed = [work_dir / Path(pointer.read_text().strip()).name] if pointer.is_file() else []
    return [path for path in dict.fromkeys([*pointed, *newest_first]) if path.is_file()]


def _number(path: Path) -> int:
    return int(path.stem.split("_")[1])
