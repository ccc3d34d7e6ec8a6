"""Looks through the two containers of `torch.save` before torch reads them: the zip and the legacy row of pickles.

torch's zip reader (miniz) is trusting: it inflates what is compressed, takes a storage's size from the pickle and not
from the entry, and tells neither a from A nor a right checksum from a wrong one. So the zip must be one that both it
and Python's reader understand alike: entries stored, plainly and uniquely named, true to their checksums, and no longer
in sum than the file.
"""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile
from typing import BinaryIO

from visionsparse.checkpoint.allowed import RefusedPickle, Storage
from visionsparse.checkpoint.pickles import MOST_BYTES, walk_pickle
from visionsparse.errors import CheckpointError

_IS_FOLDER = 0x10  # the DOS attribute in a zip's directory
_IS_UTF8 = 0x800  # the flag that says how an entry's name is to be decoded
_MAX_DIRECTORY = 2**22  # bytes: some 60,000 storages
_MAX_PLAIN_SIZE = 2**32 - 1  # larger sizes and offsets are written elsewhere, in the entry's extra field


def check_zip(file: BinaryIO) -> None:
    """Raises where a zip is not as `torch.save` writes it, or its pickle is refused."""
    file_size = file.seek(0, 2)
    start_of_directory = _find_directory(file, file_size)
    with zipfile.ZipFile(file) as archive:
        if archive.start_dir != start_of_directory:
            raise ValueError("its directory is not where torch.save writes it")
        entries = _entries(archive, file_size)
        folder = next(iter(entries)).partition("/")[0]
        if f"{folder}/constants.pkl" in entries:
            raise CheckpointError("is a TorchScript program, expected weights. Save the module's state_dict() instead.")

        def check_storage(storage: Storage) -> None:
            entry = entries.get(f"{folder}/data/{storage.key}")
            found = entry.file_size if entry else 0
            if found != storage.nbytes:
                raise ValueError(f"storage {storage.key} has {found} bytes, {storage.nbytes} declared")

        if f"{folder}/data.pkl" not in entries:
            raise ValueError(f"its zip has no {folder}/data.pkl")
        pickled = entries[f"{folder}/data.pkl"]
        if pickled.file_size > MOST_BYTES:
            raise RefusedPickle(f"its pickle is longer than {MOST_BYTES >> 20} MiB, storages not counted")
        walk_pickle(io.BytesIO(archive.read(pickled)), check_storage)
        damaged = archive.testzip()  # torch itself reads a storage without looking at its checksum
        if damaged is not None:
            raise ValueError(f"{damaged} does not match its checksum")


def check_legacy(file: BinaryIO) -> None:
    """Magic number, version, system, the object, the keys of its storages; then each storage: item count and items."""
    if tarfile.is_tarfile(file.name):
        raise RefusedPickle("it is a legacy torch file and a tar file at once")
    file_size = file.seek(0, 2)
    file.seek(0)
    storages: dict[str, Storage] = {}
    for _ in range(5):
        keys = walk_pickle(file, lambda storage: storages.update({storage.key: storage}))
    if sorted(map(str, getattr(keys, "items", ()))) != sorted(storages):  # torch would leave others unread
        raise ValueError("its list of storages is not that of its tensors")
    found, declared = file_size - file.tell(), sum(8 + storage.nbytes for storage in storages.values())
    if found != declared:
        raise ValueError(f"it has {found} bytes of weights, {declared} declared")


def _find_directory(file: BinaryIO, file_size: int) -> int:
    """Where the directory starts, by the file's very end: torch's zip reader must find the one that Python's does."""
    file.seek(max(0, file_size - 98))
    tail = file.read().rjust(98, b"\0")
    signature, size, offset, comment = struct.unpack("<4s8xLLH", tail[-22:])
    at_end = True
    if tail[-42:-38] == b"PK\x06\x07":  # zip64, which torch writes: a record, a pointer to it, then the usual end
        size, offset, pointer = struct.unpack("<40xQQ8xQ", tail[:72])
        at_end = pointer == file_size - 98
    if signature != b"PK\x05\x06" or comment or not at_end:
        raise ValueError("its end is not that of a zip file")
    if size > _MAX_DIRECTORY:
        raise RefusedPickle(f"its zip's directory takes {size} bytes, expected {_MAX_DIRECTORY} or fewer")
    return offset


def _entries(archive: zipfile.ZipFile, file_size: int) -> dict[str, zipfile.ZipInfo]:
    """The archive's entries by name, in their order, none of them odd."""
    infos = archive.infolist()
    if not infos or min(info.header_offset for info in infos) != 0:
        raise RefusedPickle("its zip's entries don't start with the file")
    folder = infos[0].orig_filename.partition("/")[0]
    entries: dict[str, zipfile.ZipInfo] = {}
    seen: set[str] = set()
    for info in infos:
        name = info.orig_filename  # as both readers see it; `filename` may come from an extra field
        if not _is_plain_name(name, folder) or (info.flag_bits ^ infos[0].flag_bits) & _IS_UTF8:
            raise RefusedPickle(f"its zip has an entry of an odd name ({name!r})")
        if name.lower() in seen:
            raise RefusedPickle(f"its zip has two entries of one name ({name!r})")
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise RefusedPickle(f"its zip has a compressed entry ({name!r}), which torch.save never writes")
        if info.external_attr & _IS_FOLDER:  # torch would leave such a storage as the memory happens to be
            raise RefusedPickle(f"its zip has a folder in it ({name!r}), which torch.save never writes")
        if info.extra and file_size <= _MAX_PLAIN_SIZE:
            raise RefusedPickle(f"its zip has an entry with extra fields ({name!r}), which torch.save never writes")
        seen.add(name.lower())
        entries[name] = info
    if sum(info.file_size for info in infos) > file_size:
        raise RefusedPickle("its zip's entries add up to more than the file")
    return entries


def _is_plain_name(name: str, folder: str) -> bool:
    parts = name.split("/")
    is_plain = name.isprintable() and "\\" not in name and "/".join(parts[1:]).isascii()
    return is_plain and parts[0] == folder and not {"", ".", ".."} & set(parts)
