"""The image files that files, folders and patterns mean: in order, each once, in little memory."""

from __future__ import annotations

import glob
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visionsparse.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

_CHUNK = 65536  # names that are Python objects at a time


class ImageFiles(Sequence):
    """Paths of files, and below which name a picture of each is written."""

    def __init__(self, paths: pa.Array, names: pa.Array) -> None:
        self._paths, self._names = paths, names

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return ImageFiles(self._paths[index], self._names[index])
        return os.fsdecode(self._paths[index].as_py())

    def picture_names(self, taken: Sequence[str] = ()) -> Iterator[str]:
        """A name a file: its path below the folder that was asked for, without its ending; no two are the same.

        Args:
            taken: names that no file may get.
        """
        used = set(taken)
        for encoded in self._names:
            name = os.fsdecode(encoded.as_py())
            unique, number = name, 2
            while unique in used:
                unique, number = f"{name}-{number}", number + 1
            used.add(unique)
            yield unique


def find_files(words: Sequence[str]) -> ImageFiles:
    """The files that `words` (files, folders with their sub-folders, patterns) mean.

    Raises:
        DataError: a word that means no file; names it.
    """
    import numpy as np
    import pyarrow as pa

    found = (pair for word in words for pair in _files_of(word))
    chunks: list[tuple[Any, Any]] = []
    while few := list(itertools.islice(found, _CHUNK)):
        paths, names = ([os.fsencode(pair[column]) for pair in few] for column in (0, 1))
        chunks.append((pa.array(paths, pa.large_binary()), pa.array(names, pa.large_binary())))
    paths, names = (pa.chunked_array(column).combine_chunks() for column in zip(*chunks, strict=True))
    first = np.sort(np.unique(paths.dictionary_encode().indices.to_numpy(), return_index=True)[1])
    return ImageFiles(paths, names) if len(first) == len(paths) else ImageFiles(paths.take(first), names.take(first))


def _files_of(word: str) -> Iterator[tuple[str, str]]:
    """(path, name of its picture) of every file."""
    endings = _endings()
    if os.path.isdir(word):
        images = _images_below(word, "", endings)
        first = next(images, None)
        if first is None:
            raise DataError(f"{word}: no image in this folder (looked for {' '.join(endings)}).")
        yield from itertools.chain([first], images)
        return
    matches = [word] if os.path.isfile(word) else sorted(glob.glob(word, recursive=True))
    is_found = False
    for path in map(Path, matches):
        images = _images_below(str(path), "", endings) if path.is_dir() else iter([(str(path), path.stem)])
        for image in images:
            is_found = True
            yield image
    if not is_found:
        kind = "no image matches this pattern" if glob.has_magic(word) else "no such file or folder"
        raise DataError(f"{word}: {kind}. Give an image file, a folder or a quoted pattern such as 'val/*.png'.")


def _images_below(folder: str, prefix: str, endings: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Image files in text order, none hidden or in a hidden folder or behind a link to a folder."""
    with os.scandir(Path(folder, prefix)) as entries:
        here = sorted((entry.name, entry.is_dir(), entry.is_dir(follow_symlinks=False)) for entry in entries)
    for name, is_folder, is_real_folder in here:
        if name.startswith("."):
            continue
        below = os.path.join(prefix, name)
        if is_real_folder:
            yield from _images_below(folder, below, endings)
        elif not is_folder and os.path.splitext(name)[1].lower() in endings:
            yield str(Path(folder, below)), os.path.splitext(below)[0]


def _endings() -> list[str]:
    from PIL import Image

    from visionsparse.datasets.image import FORMATS

    return sorted(ending for ending, name in Image.registered_extensions().items() if name in FORMATS)
