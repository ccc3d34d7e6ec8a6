"""Hostile containers by name: zips, legacy files and safetensors files that lie about what is in them."""

from __future__ import annotations

import gzip
import io
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path

from tests.checkpoint.hostile.build import (
    STORAGES,
    beside,
    legacy,
    pickled,
    safetensors_entry,
    safetensors_file,
    saved,
    state,
    storage,
    tensor,
    whole_state,
    zipped,
)

LOCAL, CENTRAL, END = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
WEIGHT, BIAS = safetensors_entry([2, 3], 0, 24), safetensors_entry([2], 24, 32)


def patched(content: bytes, signature: bytes, offset: int, value: bytes, which: int = 0) -> bytes:
    """`content` with some bytes of its `which`-th header of that kind replaced."""
    at = -1
    for _ in range(which + 1):
        at = content.index(signature, at + 1)
    return content[: at + offset] + value + content[at + offset + len(value) :]


def with_extra(extra: bytes, sizes: bytes | None = None) -> bytes:
    """A zip whose storage has an extra field in the directory."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in {"data.pkl": beside(), "version": b"3\n", **STORAGES}.items():
            info = zipfile.ZipInfo(f"archive/{name}")
            archive.writestr(info, data)
            if name == "data/0":
                info.extra = extra  # written to the directory only, when the archive is closed
    content = buffer.getvalue()
    return patched(content, CENTRAL, 20, sizes, which=2) if sizes else content


def overlapping() -> bytes:
    """A zip whose second storage is the first one again."""
    storages = {"data/0": bytes(24), "data/1": bytes(24)}
    content = zipped(pickled(state(None, b"X\x01\x00\x00\x00x", tensor(of=storage("1")))), storages)
    offsets = [info.header_offset for info in zipfile.ZipFile(io.BytesIO(content)).infolist()]
    return patched(content, CENTRAL, 42, struct.pack("<L", offsets[2]), which=3)


def zips() -> dict[str, tuple[bytes, str]]:
    whole = zipped()
    swelling = {**STORAGES, "data/2": bytes(2**24)}
    unicode_path = struct.pack("<HHBL", 0x7075, 5 + 14, 1, 0) + b"archive/data/9"
    return {
        "a zip bomb": (zipped(storages=swelling, compression=zipfile.ZIP_DEFLATED), "compressed entry"),
        "a bomb of another method": (zipped(storages=swelling, compression=zipfile.ZIP_BZIP2), "compressed entry"),
        "an entry above the archive": (zipped(more={"../x": b"x"}), "odd name"),
        "an entry above the archive, inside": (zipped(more={"archive/../../x": b"x"}), "odd name"),
        "an entry with an absolute name": (zipped(more={"/etc/x": b"x"}), "odd name"),
        "an entry of another folder": (zipped(more={"other/x": b"x"}), "odd name"),
        "an entry named by another alphabet": (zipped(more={"archive/data/\u00e9": b"x"}), "odd name"),
        "an entry with a line end in its name": (zipped(more={"archive/a\n": b"x"}), "odd name"),
        "two entries of one name": (
            zipped(more={"archive/data/x.p": b"x"}).replace(b"data/x.p", b"data.pkl"),
            "two entries of one name",
        ),
        "two entries that differ in case": (zipped(more={"archive/DATA.pkl": b"x"}), "two entries of one name"),
        "an archive in the archive": (zipped(more={"archive/inner.pth": whole}), "loaded"),
        "a program": (zipped(more={"archive/constants.pkl": b"x"}), "TorchScript"),
        "no pickle": (zipped().replace(b"data.pkl", b"data.pk1"), "no archive/data.pkl"),
        "an empty zip": (LOCAL + END + bytes(18), "can't be read"),
        "a folder in the place of a storage": (patched(whole, CENTRAL, 38, b"\x10", which=2), "folder in it"),
        "an encrypted entry": (patched(whole, CENTRAL, 8, b"\x01", which=0), "can't be read"),
        "a wrong checksum": (patched(whole, CENTRAL, 16, b"\x00\x00\x00\x00", which=2), "can't be read"),
        "sizes of 4 GiB": (patched(whole, CENTRAL, 20, b"\xfe\xff\xff\xff" * 2, which=2), "more than the file"),
        "a size other than the compressed size": (patched(whole, CENTRAL, 24, b"\x10", which=2), "compressed entry"),
        "a size that zip64 tells anew": (with_extra(struct.pack("<HHQQ", 1, 16, 2**40, 2**40), b"\xff" * 8), "refused"),
        "a size that zip64 tells twice": (
            with_extra(struct.pack("<HHQQHHQQ", 1, 16, 24, 24, 1, 16, 2**40, 2**40), b"\xff" * 8),
            "refused",
        ),
        "an extra field that names the entry anew": (with_extra(unicode_path), "refused"),
        "an offset outside of the file": (patched(whole, CENTRAL, 42, b"\xf0\xff\xff\xff", which=2), "can't be read"),
        "entries that overlap": (overlapping(), "can't be read"),
        "an entry under another name in its own header": (
            patched(whole, LOCAL, 30, b"Archive", which=2),
            "can't be read",
        ),
        "a directory that begins elsewhere": (patched(whole, END, 16, b"\x00\x00\x00\x00"), "can't be read"),
        "a directory of 4 GiB": (patched(whole, END, 12, b"\xff\xff\xff\xff"), "refused"),
        "a zip64 end that points elsewhere": (
            whole[:-22] + b"PK\x06\x06" + bytes(52) + b"PK\x06\x07" + bytes(16) + whole[-22:],
            "can't be read",
        ),
        "two archives": (whole + whole, "can't be read"),
        "a comment": (patched(whole, END, 20, b"\x04\x00") + b"more", "can't be read"),
        "a comment that is another end": (patched(whole, END, 20, b"\x16\x00") + END + bytes(18), "can't be read"),
        "a zip in gzip": (gzip.compress(whole), "neither a torch nor a safetensors file"),
    }


def floods() -> dict[str, tuple[bytes, str]]:
    """As many names as a container may have, and more: seconds each."""
    tiny = b",".join(b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % i for i in range(130_000))
    return {
        "a directory of 60,000 names": (zipped(more={f"archive/{i:x}": b"" for i in range(60_000)}), "loaded"),
        "a directory of 120,000 names": (
            zipped(more={f"archive/{i:x}": b"" for i in range(120_000)}),
            "its zip's directory takes",
        ),
        "a header of 130,000 tensors": (safetensors_file(b"{" + tiny + b"}"), "does not fit"),
    }


def legacies() -> dict[str, tuple[bytes, str]]:
    tarred = io.BytesIO()
    with tarfile.open(fileobj=tarred, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("storages"), io.BytesIO())
    raw = legacy()[len(legacy(raw=b"")) :]
    return {
        "a legacy file, honestly": (legacy(), "loaded"),
        "a tar file": (tarred.getvalue(), "tar file"),
        "a storage that is not in the list": (legacy(keys=pickle.dumps(["0"], 2)), "list of storages"),
        "a storage twice in the list": (legacy(keys=pickle.dumps(["0", "1", "1"], 2)), "list of storages"),
        "a list that is a text": (legacy(keys=pickle.dumps("01", 2)), "list of storages"),
        "more numbers than there are": (legacy(raw=b"\xff\xff\xff\x7f" + raw[4:]), "can't be read"),
        "fewer numbers than there are": (legacy(raw=b"\x01" + raw[1:]), "can't be read"),
        "less than no numbers": (legacy(raw=b"\xff" * 8 + raw[8:]), "can't be read"),
        "a cut legacy file": (legacy()[:-1], "declared"),
        "a legacy file with something behind it": (legacy() + b"x", "declared"),
        "a declared storage of 2**40 numbers": (legacy(pickled(state(tensor(of=storage(numel=2**40))))), "declared"),
        "another magic number": (legacy().replace(b"\x6c\xfc\x9c\x46", b"\x6c\xfc\x9c\x47", 1), "plain pickle"),
    }


def safetensors() -> dict[str, tuple[bytes, str]]:
    numbers = STORAGES["data/0"] + STORAGES["data/1"]
    both = {"weight": WEIGHT, "bias": BIAS}

    def lying(**weight: object) -> bytes:
        return safetensors_file({"weight": {**WEIGHT, **weight}, "bias": BIAS}, numbers)

    return {
        "safetensors, honestly": (safetensors_file(both, numbers), "loaded"),
        "a header of 2**63 bytes": (safetensors_file(both, numbers, length=2**63), "its header is of"),
        "a header longer than the file": (safetensors_file(both, numbers, length=2**20), "can't be read"),
        "a header of blanks": (safetensors_file(b"{" + b" " * 2**23 + b"}"), "its header is of"),
        "a header of deep lists": (
            safetensors_file(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
            "can't be read",
        ),
        "a header that is no JSON": (safetensors_file(b"{'weight': 1}"), "can't be read"),
        "a header that is no text": (safetensors_file(b'{"\xff\xfe": 1}'), "can't be read"),
        "a header of the number NaN": (safetensors_file(b'{"weight": NaN}'), "can't be read"),
        "a header that is cut off": (safetensors_file(b'{"weight": {"dtype": "F32"'), "can't be read"),
        "offsets that overlap": (lying(data_offsets=[8, 32]), "can't be read"),
        "offsets that leave a hole": (
            safetensors_file({"weight": WEIGHT, "bias": {**BIAS, "data_offsets": [28, 36]}}, numbers + b"1234"),
            "can't be read",
        ),
        "offsets beyond the file": (lying(data_offsets=[0, 2**40]), "can't be read"),
        "offsets backwards": (lying(data_offsets=[24, 0]), "can't be read"),
        "offsets below nothing": (lying(data_offsets=[-24, 0]), "can't be read"),
        "a shape of more than the numbers": (lying(shape=[2, 4]), "can't be read"),
        "a shape that overflows": (lying(shape=[2**63, 2**63, 2]), "can't be read"),
        "a shape below nothing": (lying(shape=[-2, -3]), "can't be read"),
        "a shape of halves": (lying(shape=[1.5, 4]), "can't be read"),
        "a dtype that is none": (lying(dtype="F33"), "can't be read"),
        "a dtype of another size": (lying(dtype="F64"), "can't be read"),
        "one name twice": (
            safetensors_file(
                b'{"weight":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},'
                b'"weight":{"dtype":"F32","shape":[2],"data_offsets":[24,32]}}',
                numbers,
            ),
            "can't be read",
        ),
        "metadata that is no text": (safetensors_file({"__metadata__": {"a": 1}, **both}, numbers), "can't be read"),
        "metadata of a mebibyte": (safetensors_file({"__metadata__": {"a": "x" * 2**20}, **both}, numbers), "loaded"),
        "numbers behind the numbers": (safetensors_file(both, numbers + b"x"), "can't be read"),
        "numbers that are missing": (safetensors_file(both, numbers[:-1]), "can't be read"),
        "no tensor at all": (safetensors_file({}), "no weights found"),
    }


def cases(_: Path) -> dict[str, tuple[bytes, str]]:
    return {
        "a zip, honestly": (saved({"model": whole_state()}), "loaded"),
        **zips(),
        **legacies(),
        **safetensors(),
    }
