"""Files that appear whole or not at all: a temporary file in the same folder, synced, then renamed over the former."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

TEMPORARY_SUFFIX = ".visionsparse-tmp"  # a killed process leaves `.NAME.XXXX.visionsparse-tmp` behind: safe to sweep


@contextlib.contextmanager
def whole_file(path: str | Path) -> Iterator[BinaryIO]:
    """A file to write into, which becomes `path` at the end of the block; on any error the former file stays.

    The folder is made if need be.

    Raises:
        OSError: it can't be written.
    """
    path = Path(os.path.realpath(path))  # a link stays a link
    temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # 0666 less the umask, as any new file; tempfile would give 0600
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def write_text(path: str | Path, text: str) -> None:
    """Writes a whole UTF-8 file. Raises OSError where it can't."""
    with whole_file(path) as file:
        file.write(text.encode())


def _sync_folder(folder: Path) -> None:
    """Makes the rename itself survive a power cut, where the file system can (the file is in its place already)."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
