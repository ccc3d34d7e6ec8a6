"""Files that appear whole or not at all: a temporary file in the same folder, synced, then renamed over the former.

A writer holds a lock on its temporary file. The system lets go of it when the writer dies, so `sweep` can tell what a
killed process left behind from what a living one is writing.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

TEMPORARY_SUFFIX = ".visionsparse-tmp"  # a killed process leaves `.NAME.XXXX.visionsparse-tmp` behind

# a full disk, a quota, a limit on the size of a file (ulimit -f), a disk that fails or has become read-only
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)


@contextlib.contextmanager
def whole_file(path: str | Path) -> Iterator[BinaryIO]:
    """A file to write into, which becomes `path` at the end of the block; on any error the former file stays.

    The folder is made if need be.

    Raises:
        OSError: it can't be written; its `filename` says which file.
    """
    path = Path(os.path.realpath(path))  # a link stays a link
    temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}"
    try:
        with naming(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            # 0666 less the umask, as any new file; tempfile would give 0600
            with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "wb") as file:
                with contextlib.suppress(OSError):  # a file system without locks: its leftovers stay
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
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


def sweep(folder: str | Path) -> list[str]:
    """Removes the unfinished files that killed writers left in `folder`, and returns their names."""
    swept = []
    for path in sorted(Path(folder).glob(f".*{TEMPORARY_SUFFIX}")):
        with contextlib.suppress(OSError), open(path, "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # BlockingIOError: its writer lives
            path.unlink()
            swept.append(path.name)
    return swept


@contextlib.contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Gives an OSError of the block the file's name: a failed write has none of its own."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def no_room(error: OSError) -> str | None:
    """One line for a disk that takes no more: the file, the reason, the free space; None for any other error."""
    if error.errno not in _NO_ROOM:
        return None
    folder = os.path.dirname(os.path.abspath(error.filename)) if error.filename else os.getcwd()
    return (
        f"{error.filename or folder}: can't be written: {error.strerror}.{free_space(folder)} "
        "Make room, then run the same command again (training: with --resume)."
    )


def free_space(folder: str | Path) -> str:
    """` 12 MiB are free there.`, or nothing where that can't be known."""
    try:
        return f" {shutil.disk_usage(folder).free // 2**20} MiB are free there."
    except OSError:
        return ""


def _sync_folder(folder: Path) -> None:
    """Makes the rename itself survive a power cut, where the file system can (the file is in its place already)."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
