"""Reads checkpoint files that may be broken or hostile: never code, never more memory than the file is long.

The format is told by content. A torch file (zip, or the legacy row of pickles) is looked through before `torch.load`
gets it with weights_only=True: zip entries must be stored, plainly named, true to their checksums and no longer in sum
than the file, and each pickle is walked by pickles.py. A safetensors file holds no code; its library checks sizes.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import pickle
import struct
import tarfile
import warnings
import zipfile
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlparse

import torch

from visionsparse.checkpoint.pickles import RefusedPickle, Storage, walk_pickle
from visionsparse.errors import CheckpointError, did_you_mean

SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".tar", ".safetensors")

_LEGACY_MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # how torch.save began before its files were zips
_IS_FOLDER = 0x10  # the DOS attribute in a zip's directory
_MAX_HEADER = 100_000_000  # of a safetensors file, by its specification
_AGAIN = "expected a whole file from torch.save or safetensors. Download or copy it again."
_RESAVE = "If you trust its author, load it where it was made and save its state dict alone, best as .safetensors."


def read_checkpoint(source: str | Path) -> dict[str, Any]:
    """What the checkpoint at `source` holds, on the CPU.

    Args:
        source: a path, or an http(s) URL, which is fetched into torch.hub's cache once.

    Raises:
        CheckpointError: missing, truncated, corrupt, holding code, or no dict.
    """
    path = _fetch(str(source)) if str(source).startswith(("http://", "https://")) else Path(source)
    if not path.is_file():
        raise CheckpointError(f"{path}: {_what_is_there_instead(path)}")
    try:
        content = _read(path)
    except RefusedPickle as error:
        raise CheckpointError(f"{path}: refused: {one_line(error)}. {_RESAVE}") from error
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except Exception as error:  # a broken file can make the libraries raise anything
        raise CheckpointError(f"{path}: can't be read: {one_line(error) or type(error).__name__}; {_AGAIN}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, expected a dict of weights. {_RESAVE}")
    return content


def one_line(error: object) -> str:
    """An error's text, or a name from a file, fit for the middle of a one-line message."""
    text = " ".join(str(error).split())[:300].rstrip(".")
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _read(path: Path) -> Any:
    with path.open("rb") as file:
        start = file.read(512)
        if start.startswith(b"PK\x03\x04"):
            _check_zip(file)
        elif _is_safetensors(start):
            import safetensors.torch

            return safetensors.torch.load_file(path, device="cpu")
        elif start.startswith(_LEGACY_MAGIC):
            _check_legacy(file)
        else:
            raise CheckpointError(_why_no_checkpoint(start))
    with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.load(path, map_location="cpu", weights_only=True)


def _is_safetensors(start: bytes) -> bool:
    return len(start) > 8 and start[8:9] == b"{" and struct.unpack("<Q", start[:8])[0] <= _MAX_HEADER


def _check_zip(file: BinaryIO) -> None:
    file_size = file.seek(0, 2)
    with zipfile.ZipFile(file) as archive:
        _check_directory(file, file_size, archive.start_dir)
        entries = archive.infolist()
        folder = entries[0].filename.partition("/")[0]
        sizes: dict[str, int] = {}
        for entry in entries:
            name = entry.filename
            if not _is_plain_name(entry.orig_filename, folder):
                raise RefusedPickle(f"its zip has an entry of an odd name ({entry.orig_filename!r})")
            if name.lower() in sizes:  # torch's zip reader does not tell a from A
                raise RefusedPickle(f"its zip has two entries of one name ({name!r})")
            if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
                raise RefusedPickle(f"its zip has a compressed entry ({name!r}), which torch.save never writes")
            if entry.external_attr & _IS_FOLDER:  # torch would leave such a storage as the memory happens to be
                raise RefusedPickle(f"its zip has a folder in it ({name!r}), which torch.save never writes")
            sizes[name.lower()] = entry.file_size
        if sum(sizes.values()) > file_size or min(entry.header_offset for entry in entries) != 0:
            raise RefusedPickle("its zip's entries add up to more than the file, or don't start with it")
        if f"{folder}/constants.pkl".lower() in sizes:
            raise CheckpointError("is a TorchScript program, expected weights. Save the module's state_dict() instead.")

        def check_storage(storage: Storage) -> None:
            found = sizes.get(f"{folder}/data/{storage.key}".lower(), 0)
            if found != storage.nbytes:
                raise ValueError(f"storage {storage.key} has {found} bytes, {storage.nbytes} declared")

        walk_pickle(io.BytesIO(archive.read(f"{folder}/data.pkl")), check_storage)
        damaged = archive.testzip()  # torch itself reads a storage without looking at its checksum
        if damaged is not None:
            raise ValueError(f"{damaged} does not match its checksum")


def _is_plain_name(name: str, folder: str) -> bool:
    parts = name.split("/")
    return name.isprintable() and "\\" not in name and parts[0] == folder and not {"", ".", ".."} & set(parts)


def _check_directory(file: BinaryIO, file_size: int, start_dir: int) -> None:
    """One reading only: torch's zip reader must find the very directory that Python's has found."""
    file.seek(max(0, file_size - 98))
    tail = file.read().rjust(98, b"\0")
    signature, offset, comment = struct.unpack("<4s12xLH", tail[-22:])
    at_end = True
    if tail[-42:-38] == b"PK\x06\x07":  # zip64, which torch writes: a record, a pointer to it, then the usual end
        offset, pointer = struct.unpack("<48xQ8xQ", tail[:72])
        at_end = pointer == file_size - 98
    if signature != b"PK\x05\x06" or comment or offset != start_dir or not at_end:
        raise RefusedPickle("its zip's directory is not where torch.save writes it")


def _check_legacy(file: BinaryIO) -> None:
    """Magic number, version, system, the object, the keys of its storages; then each storage: item count and items."""
    if tarfile.is_tarfile(file.name):
        raise RefusedPickle("it is a legacy torch file and a tar file at once")
    file_size = file.seek(0, 2)
    file.seek(0)
    storages: dict[str, Storage] = {}

    def check_storage(storage: Storage) -> None:
        if storages.setdefault(storage.key, storage) != storage:
            raise RefusedPickle(f"its storage {storage.key} comes in two sizes")

    for _ in range(5):
        walk_pickle(file, check_storage)
    found, declared = file_size - file.tell(), sum(8 + storage.nbytes for storage in storages.values())
    if found != declared:
        raise ValueError(f"it has {found} bytes of weights, {declared} declared")


def _why_no_checkpoint(start: bytes) -> str:
    if _LEGACY_MAGIC.startswith(start):
        return f"is {'cut off' if start else 'empty'}; {_AGAIN}"
    if start.lstrip()[:5].lower() in (b"<!doc", b"<html"):
        return f"is a web page: a download that went wrong; {_AGAIN}"
    if start.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, expected the weights themselves. Run `git lfs pull` where it came from."
    if start[257:262] == b"ustar":
        return f"is a tar file (torch before 0.2 wrote such), expected a checkpoint. Unpack it, or: {_RESAVE}"
    if start[:1] == pickle.PROTO:
        return f"is a plain pickle, which may hold code, expected a file from torch.save. {_RESAVE}"
    return f"is neither a torch nor a safetensors file (it starts with {start[:8]!r}); {_AGAIN}"


def _what_is_there_instead(path: Path) -> str:
    folder = path if path.is_dir() else path.parent
    if not folder.is_dir():
        return f"no such file, nor is there a folder {folder}. Check the path."
    known = [entry.name for entry in folder.iterdir() if entry.suffix in SUFFIXES]
    problem = "is a folder, expected a file" if path.is_dir() else "no such file"
    return f"{problem}.{did_you_mean(path.name, known) or ' Check the path: no checkpoint lies in that folder.'}"


def _fetch(url: str) -> Path:
    """The file behind `url` in torch.hub's cache; the name tells URLs apart that end alike."""
    name = Path(urlparse(url).path).name or "checkpoint"
    path = Path(torch.hub.get_dir()) / "checkpoints" / f"{hashlib.sha256(url.encode()).hexdigest()[:8]}-{name}"
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), progress=False)
        except (OSError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"{url}: can't be fetched: {one_line(error)}. Download it by other means and pass the file's path."
            ) from error
    return path
