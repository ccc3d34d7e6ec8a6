"""Checkpoint files by hand: pickles from opcodes, and the containers around them, with whatever lies in them."""

from __future__ import annotations

import collections
import io
import json
import pickle
import struct
import zipfile
from typing import Any

import torch

from tests.fuzz.checkpoint import BIAS, WEIGHT

MAGIC, VERSION, SYSTEM = 0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True}


def whole_state() -> dict[str, torch.Tensor]:
    return {"weight": WEIGHT.clone(), "bias": BIAS.clone()}


def saved(content: Any, is_zip: bool = True) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=is_zip)
    return buffer.getvalue()


def text(value: str) -> bytes:
    encoded = value.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def number(value: int) -> bytes:
    return pickle.dumps(value, 2)[2:-1]


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def call(module: str, attribute: str, *arguments: bytes) -> bytes:
    return name(module, attribute) + b"(" + b"".join(arguments) + b"tR"


def storage(key: str = "0", numel: int = 6, kind: str = "FloatStorage", tail: bytes = b"") -> bytes:
    return b"(" + text("storage") + name("torch", kind) + text(key) + text("cpu") + number(numel) + tail + b"tQ"


NO_HOOKS = call("collections", "OrderedDict")


def tensor(
    size: tuple[int, ...] = (2, 3),
    stride: tuple[int, ...] = (3, 1),
    offset: int = 0,
    of: bytes | None = None,
    tail: bytes = b"\x89" + NO_HOOKS,
    function: str = "_rebuild_tensor_v2",
) -> bytes:
    sizes = [b"(" + b"".join(map(number, values)) + b"t" for values in (size, stride)]
    return call("torch._utils", function, of or storage(), number(offset), *sizes, tail)


def state(weight: bytes | None = None, *others: bytes) -> bytes:
    """A dict of a weight, a bias and other items, as opcodes."""
    bias = tensor((2,), (1,), of=storage("1", 2))
    items = [text("weight"), tensor() if weight is None else weight, text("bias"), bias, *others]
    return b"}(" + b"".join(items) + b"u"


def beside(*values: bytes) -> bytes:
    """A whole pickle: a training file of whole weights and some values beside them."""
    items = [text("model"), state(), *(part for i, value in enumerate(values) for part in (text(f"beside{i}"), value))]
    return pickled(b"}(" + b"".join(items) + b"u")


def pickled(opcodes: bytes, protocol: int = 2) -> bytes:
    return b"\x80" + bytes([protocol]) + opcodes + b"."


STORAGES = {"data/0": WEIGHT.numpy().tobytes(), "data/1": BIAS.numpy().tobytes()}


def zipped(
    data_pkl: bytes | None = None,
    storages: dict[str, bytes] | None = None,
    more: dict[str, bytes] | None = None,
    compression: int = zipfile.ZIP_STORED,
) -> bytes:
    buffer = io.BytesIO()
    entries = {"data.pkl": beside() if data_pkl is None else data_pkl, "version": b"3\n", **(storages or STORAGES)}
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for entry, data in [*((f"archive/{entry}", data) for entry, data in entries.items()), *(more or {}).items()]:
            archive.writestr(zipfile.ZipInfo(entry), data, compression)
    return buffer.getvalue()


def legacy(data_pkl: bytes | None = None, keys: bytes | None = None, raw: bytes | None = None) -> bytes:
    start = b"".join(pickle.dumps(part, 2) for part in (MAGIC, VERSION, SYSTEM))
    stored = b"".join(struct.pack("<q", len(data) // 4) + data for data in STORAGES.values())
    keys = pickle.dumps(["0", "1"], 2) if keys is None else keys
    data_pkl = (beside() if data_pkl is None else data_pkl).replace(b"tQ", b"NtQ")  # here a storage says what it views
    return start + data_pkl + keys + (stored if raw is None else raw)


def reduced(function: Any, *arguments: Any, protocol: int = 2) -> bytes:
    """A pickle of `{"model": function(*arguments)}` from Python's own pickler."""

    class Call:
        def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
            return function, arguments

    return pickle.dumps({"model": Call()}, protocol=protocol)


def safetensors_file(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(encoded) if length is None else length) + encoded + data


def safetensors_entry(shape: list[int], start: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def training_file() -> dict[str, Any]:
    """What mmengine keeps: weights, NumPy numbers, logged histories, an optimiser's state."""
    import numpy
    from mmengine.logging import HistoryBuffer

    weights = collections.OrderedDict(whole_state())
    weights._metadata = {"": {"version": 1}}  # type: ignore[attr-defined]
    return {
        "meta": {
            "epoch": 3,
            "mmengine_version": "0.10.7",
            "lr": numpy.float64(0.1),
            "names": numpy.array(["a", "b"]),
            "empty": numpy.zeros(0),
        },
        "state_dict": weights,
        "optimizer": {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(2, 3)}}, "param_groups": [{}]},
        "message_hub": {"log_scalars": {"train/loss": HistoryBuffer([0.5, 0.25], [1, 1])}},
    }
