"""Reads checkpoint files that may be broken or hostile: never code, never much more memory than the file is long.

The format is told by content. A torch file (zip, or the legacy row of pickles) is looked through by archives.py and
pickles.py before `torch.load` gets it with weights_only=True. A safetensors file holds no code; its library checks
sizes.
"""

from __future__ import annotations

import hashlib
import pickle
import struct
import warnings
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch

from visionsparse.checkpoint.allowed import RefusedPickle, safe_globals
from visionsparse.checkpoint.archives import check_legacy, check_zip
from visionsparse.errors import CheckpointError, did_you_mean

SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".tar", ".safetensors")

_LEGACY_MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # how torch.save began before its files were zips
_MAX_HEADER = 2**23  # of a safetensors file; its library allows 100 MB, which would take a GiB to read
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
            check_zip(file)
        elif start[8:9] == b"{":
            return _read_safetensors(path, start)
        elif start.startswith(_LEGACY_MAGIC):
            check_legacy(file)
        else:
            raise CheckpointError(_why_no_checkpoint(start))
    with torch.serialization.safe_globals(safe_globals()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.load(path, map_location="cpu", weights_only=True)


def _read_safetensors(path: Path, start: bytes) -> dict[str, torch.Tensor]:
    import safetensors.torch

    header = struct.unpack("<Q", start[:8])[0]
    if header > _MAX_HEADER:
        raise CheckpointError(f"its header is of {header} bytes, expected {_MAX_HEADER} or fewer; {_AGAIN}")
    return safetensors.torch.load_file(path, device="cpu")


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
