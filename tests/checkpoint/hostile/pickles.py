"""Hostile pickles by name: the bytes of a checkpoint, and what must be said of it ("loaded": the whole weights)."""

from __future__ import annotations

import builtins
import functools
import importlib
import operator
import os
import pickle
import runpy
import socket
import subprocess
import warnings
import webbrowser
from collections import Counter
from pathlib import Path

import numpy
import torch

from tests.checkpoint.hostile.build import (
    NO_HOOKS,
    STORAGES,
    beside,
    call,
    legacy,
    name,
    number,
    pickled,
    reduced,
    saved,
    state,
    storage,
    tensor,
    text,
    training_file,
    whole_state,
    zipped,
)

HISTORY = name("mmengine.logging.history_buffer", "HistoryBuffer")
GETATTR = name("builtins", "getattr")
NEST = 100_000  # deeper than the stack of C


def asks(opcodes: bytes) -> bytes:
    return zipped(beside(opcodes))


def shown(weight: bytes) -> bytes:
    """A file whose weight is this tensor."""
    return zipped(pickled(state(weight)))


def code(canary: Path) -> dict[str, tuple[bytes, str]]:
    """Calls that would leave a file behind, or worse."""
    touch = f"touch {canary}"
    return {
        "os.system in a zip": (zipped(reduced(os.system, touch)), "posix.system"),
        "os.system in a legacy file": (legacy(reduced(os.system, touch)), "posix.system"),
        "os.system in the list of storages": (legacy(keys=reduced(os.system, touch)), "posix.system"),
        "os.system in a plain pickle": (reduced(os.system, touch), "plain pickle"),
        "os.system in protocol 0": (zipped(reduced(os.system, touch, protocol=0)), "refused"),
        "os.system in protocol 1": (zipped(reduced(os.system, touch, protocol=1)), "refused"),
        "os.system in protocol 3": (zipped(reduced(os.system, touch, protocol=3)), "posix.system"),
        "os.system by a stack global": (zipped(reduced(os.system, touch, protocol=4)), "posix.system"),
        "os.system in protocol 5": (zipped(reduced(os.system, touch, protocol=5)), "posix.system"),
        "os.system by inst": (asks(b"(" + text(touch) + b"ios\nsystem\n"), "os.system"),
        "os.system by obj": (asks(b"(" + name("os", "system") + text(touch) + b"o"), "os.system"),
        "os.system by an extension code": (asks(b"\x82\x01(" + text(touch) + b"tR"), "EXT1"),
        "os.system under a name with an escape": (asks(call("os", "s\\x79stem", text(touch))), "refused"),
        "os.system as a storage's type": (
            asks(b"(" + text("storage") + name("os", "system") + text("0") + text("cpu") + b"K\x06tQ"),
            "os.system",
        ),
        "subprocess.Popen": (
            zipped(reduced(subprocess.Popen, touch, -1, None, None)),
            "commands.Popen",
        ),  # what protocol 2 calls it
        "eval": (zipped(reduced(eval, f"open({str(canary)!r}, 'w')")), "builtins.eval"),
        "exec": (zipped(reduced(exec, f"open({str(canary)!r}, 'w')")), "builtins.exec"),
        "open for writing": (zipped(reduced(open, str(canary), "w")), "io.open"),
        "import of a module": (zipped(reduced(importlib.import_module, "antigravity")), "import_module"),
        "import by __import__": (zipped(reduced(builtins.__import__, "antigravity")), "__import__"),
        "runpy": (zipped(reduced(runpy.run_path, str(canary))), "runpy"),
        "a web browser": (zipped(reduced(webbrowser.open, "http://127.0.0.1:9")), "webbrowser.open"),
        "a socket": (zipped(reduced(socket.create_connection, ("127.0.0.1", 9))), "socket"),
        "functools.partial": (zipped(reduced(functools.partial, os.system, touch)), "functools.partial"),
        "operator.attrgetter": (zipped(reduced(operator.attrgetter, "system")), "operator.attrgetter"),
        "a chain of getattr": (
            asks(GETATTR + b"(" + call("builtins", "__import__", text("os")) + text("system") + b"tR"),
            "__import__",
        ),
        "getattr of a method": (zipped(reduced(getattr, {}, "clear")), "builtins.getattr"),
        "getattr of what getattr gave": (
            asks(GETATTR + b"(" + GETATTR + b"(" + HISTORY + text("__init__") + b"tR" + text("__globals__") + b"tR"),
            "builtins.getattr",
        ),
        "a call of what getattr gave": (
            asks(GETATTR + b"(" + HISTORY + text("min") + b"tR(" + text(touch) + b"tR"),
            "something that is no function",
        ),
        "a pickle in a pickle": (zipped(reduced(pickle.loads, reduced(os.system, touch))), "pickle.loads"),
        "torch.load": (zipped(reduced(torch.load, str(canary))), "torch.serialization.load"),
        "torch.hub": (zipped(reduced(torch.hub.load, "a/b", "c")), "torch.hub.load"),
        "numpy.load": (zipped(reduced(numpy.load, str(canary), None, True)), "numpy.load"),
        "a codec other than that of bytes": (
            asks(call("_codecs", "encode", text("x"), text("idna"))),
            "_codecs.encode with other arguments",
        ),
        "a Namespace with a method of Python's": (
            asks(name("argparse", "Namespace") + b")\x81}" + text("__setstate__") + GETATTR + b"sb"),
            "a meaning to Python",
        ),
        "a Namespace with slots": (asks(name("argparse", "Namespace") + b")\x81N}\x86b"), "no dict"),
        "a state dict with a method": (asks(NO_HOOKS + b"}" + text("items") + GETATTR + b"sb"), "_metadata"),
        "hooks for backward": (
            shown(tensor(tail=b"\x88" + NO_HOOKS + b"K\x00" + GETATTR + b"s")),
            "hooks, which torch.save never writes",
        ),
        "hooks that are filled later": (
            zipped(
                pickled(
                    b"}"
                    + text("model")
                    + NO_HOOKS
                    + b"q\x01s"
                    + text("x")
                    + tensor(tail=b"\x88h\x01")
                    + b"s"
                    + text("y")
                    + b"h\x01K\x00"
                    + GETATTR
                    + b"ss"
                )
            ),
            "fills something",
        ),
    }


def memory() -> dict[str, tuple[bytes, str]]:
    """Small files that ask for much memory, time or stack."""
    many = b"](" + b"N" * 400 + b"eq\x00"
    doubled = b")" + b"q\x00h\x00\x86" * 60
    megabyte = text("x" * 2**20) + b"q\x07"
    return {
        "bytearray of 2 GiB": (zipped(reduced(bytearray, 2**31)), "builtins.bytearray"),
        "bytes of 2 GiB, left out": (asks(call("builtins", "bytes", number(2**31))), "loaded"),
        "an untyped storage": (zipped(reduced(torch.UntypedStorage, 2**33)), "UntypedStorage"),
        "a typed storage": (asks(call("torch", "FloatStorage", number(2**31))), "no function of a checkpoint"),
        "torch.Tensor of a size": (zipped(reduced(torch.Tensor, 2**31)), "torch.Tensor"),
        "numpy.zeros": (zipped(reduced(numpy.zeros, 2**31)), "numpy.zeros"),
        "a NumPy array of a huge shape, left out": (
            asks(call("numpy.core.multiarray", "_reconstruct", name("numpy", "ndarray"), number(2**40), b"N")),
            "loaded",
        ),
        "a range": (zipped(reduced(list, range(2**40))), "builtins.list"),
        "a string times a number": (zipped(reduced(operator.mul, "x", 2**40)), "operator.mul"),
        "a set copied over and over": (asks(many + b"(" + b"cbuiltins\nset\nh\x00\x85R" * 40 + b"t"), "swell"),
        "a dict copied over and over": (
            asks(
                b"}("
                + b"".join(bytes([75, i, 78]) for i in range(200))
                + b"uq\x00("
                + b"ccollections\nOrderedDict\nh\x00\x85R" * 400
                + b"t"
            ),
            "swell",
        ),
        "a Counter of a text": (asks(call("collections", "Counter", text("x" * 100))), "other arguments"),
        "attributes copied over and over": (
            asks(
                b"}("
                + b"".join(text(f"a{i}") + b"N" for i in range(200))
                + b"uq\x00("
                + b"cargparse\nNamespace\n)\x81h\x00b" * 400
                + b"t"
            ),
            "swell",
        ),
        "a text encoded over and over": (
            asks(b"(" + megabyte + (b"c_codecs\nencode\n(h\x07" + text("latin1") + b"tR") * 9 + b"t"),
            "encodes one text over and over",
        ),
        "a text of odd letters": (asks(text("x" * 2**23 + "\U0001f600")), "loaded"),
        "a text of 4 GiB by its own word": (asks(b"X\xff\xff\xff\xff" + b"x"), "can't be read"),
        "a text of 2**62 bytes by its own word": (asks(b"\x8d" + number(1) + b"\x3f" * 8), "can't be read"),
        "a line without an end": (zipped(b"\x80\x02c" + b"x" * 2**20), "can't be read"),
        "a number of 2 GiB by its own word": (asks(b"\x8b\xff\xff\xff\x7f"), "can't be read"),
        "a number of 255 bytes": (asks(b"\x8a\xff" + b"\x7f" * 255), "loaded"),
        "a pickle of 40 MiB": (asks(text("x" * 40 * 2**20)), "longer than 32 MiB"),
        "a legacy pickle of 40 MiB": (legacy(pickled(text("x" * 40 * 2**20))), "longer than 32 MiB"),
        "a place in the memo of 2**32 - 1": (asks(b"Nr\xff\xff\xff\xff"), "loaded"),
        "a place in the memo that is empty": (asks(b"h\x63"), "can't be read"),
        "lists in lists": (asks(b"]" * 20_000 + b"a" * 19_999), "loaded"),
        "dicts in dicts": (asks(b"}" + b"K\x00}" * 20_000 + b"s" * 20_000), "loaded"),
        "tuples in tuples": (asks(b")" + b"\x85" * NEST), "loaded"),
        "tuples in tuples as a key": (asks(b"})" + b"\x85" * NEST + b"Ns"), "keys other than"),
        "tuples in tuples in a set": (asks(name("builtins", "set") + b"])" + b"\x85" * NEST + b"a\x85R"), "keys other"),
        "a tuple doubled 60 times as a key": (asks(b"}" + doubled + b"Ns"), "keys other than"),
        "a list that holds itself": (asks(b"]q\x00h\x00a"), "loaded"),
        "a dict that is its own weights": (
            zipped(pickled(b"}q\x00" + text("model") + b"h\x00s")),
            "expected str names Tensor",
        ),
    }


def floods() -> dict[str, tuple[bytes, str]]:
    """As many objects as a pickle may make, of each kind: seconds each."""
    return {
        "two million opcodes": (asks(b"(" + b"N" * 2_000_000 + b"t"), "opcodes"),
        "lists by the million": (asks(b"(" + b"]" * 980_000 + b"t"), "loaded"),
        "dicts by the million": (asks(b"(" + b"}" * 980_000 + b"t"), "loaded"),
        "ordered dicts by the hundred thousand": (
            asks(name("collections", "OrderedDict") + b"q\x05(" + b"h\x05)R" * 320_000 + b"t\x86"),
            "loaded",
        ),
        "Namespaces by the hundred thousand": (
            asks(name("argparse", "Namespace") + b"q\x05(" + b"h\x05)\x81" * 320_000 + b"t\x86"),
            "loaded",
        ),
        "marks by the million": (asks(b"(" * 980_000), "can't be read"),
        "parameters by the hundred thousand": (
            asks(
                name("torch._utils", "_rebuild_parameter")
                + b"q\x05("
                + (tensor() + b"\x88" + NO_HOOKS + b"\x87q\x06")
                + b"h\x05h\x06R" * 320_000
                + b"t\x86"
            ),
            "loaded",
        ),
        "tensors by the hundred thousand": (
            asks(
                name("torch._utils", "_rebuild_tensor_v2")
                + b"q\x05("
                + storage()
                + b"K\x00))\x89"
                + NO_HOOKS
                + b"tq\x06("
                + b"h\x05h\x06R" * 320_000
                + b"t\x87"
            ),
            "loaded",
        ),
    }


def tensors() -> dict[str, tuple[bytes, str]]:
    """Tensors and storages that are not what they say."""
    quantised = torch.quantize_per_tensor(torch.ones(2, 3), 0.1, 0, torch.qint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch would rather check
        with_bad_index = torch.sparse_coo_tensor(torch.tensor([[9], [9]]), [1.0], (2, 3), check_invariants=False)
    number_of_bytes = {**STORAGES, "data/0": bytes(24)}
    expanded = tensor((2**22,), (0,))
    return {
        "a size beyond the storage": (shown(tensor((2, 4), (3, 1))), "reaches beyond its storage"),
        "an absurd size": (shown(tensor((2**40, 2**20), (1, 1))), "reaches beyond its storage"),
        "a size that overflows": (shown(tensor((2**40, 2**40), (0, 0))), "over and over"),
        "a size over 64 bits": (shown(tensor((2**70,), (0,))), "something else than"),
        "a negative size": (shown(tensor((-1, 3), (3, 1))), "something else than"),
        "a negative stride": (shown(tensor((2, 3), (-3, 1))), "something else than"),
        "a stride beyond the storage": (shown(tensor((2, 3), (2**40, 1))), "reaches beyond its storage"),
        "fewer strides than sizes": (shown(tensor((2, 3), (1,))), "something else than"),
        "an offset beyond the storage": (shown(tensor(offset=1)), "reaches beyond its storage"),
        "an absurd offset": (shown(tensor(offset=2**62)), "reaches beyond its storage"),
        "a negative offset": (shown(tensor(offset=-1)), "something else than"),
        "sizes that are truths": (
            shown(
                call(
                    "torch._utils",
                    "_rebuild_tensor_v2",
                    storage(),
                    b"K\x00",
                    b"\x88\x88\x86",
                    b"\x88\x88\x86",
                    b"\x89" + NO_HOOKS,
                )
            ),
            "something else than",
        ),
        "a hundred dimensions": (shown(tensor((1,) * 100, (1,) * 100)), "something else than"),
        "an empty tensor of an absurd size": (shown(tensor((0, 2**62), (1, 1))), "expected (2, 3)"),
        "one number shown four million times, often": (
            zipped(pickled(state(None, *(part for i in range(9) for part in (text(str(i)), expanded))))),
            "over and over",
        ),
        "a tensor of no storage": (shown(tensor(of=b"N")), "something else than"),
        "a tensor with metadata": (
            shown(tensor(tail=b"\x89" + NO_HOOKS + b"}" + text("neg") + b"\x88s")),
            "other arguments",
        ),
        "a tensor whose gradient is a text": (shown(tensor(tail=text("yes") + NO_HOOKS)), "other arguments"),
        "a parameter of no tensor": (
            shown(call("torch._utils", "_rebuild_parameter", b"]", b"\x89", NO_HOOKS)),
            "_rebuild_parameter",
        ),
        "a sparse tensor with bad indices": (
            saved({"weight": with_bad_index, "bias": torch.ones(2)}),
            "_rebuild_sparse",
        ),
        "a quantised tensor": (saved({"weight": quantised, "bias": torch.ones(2)}), "refused"),
        "a meta tensor": (saved({"weight": torch.ones(2, 3, device="meta"), "bias": torch.ones(2)}), "refused"),
        "a tensor of a class of its own": (
            shown(call("torch._tensor", "_rebuild_from_type_v2", name("os", "system"), b"N", b")", b"}")),
            "_rebuild_from_type",
        ),
        "a wrapper of a tensor": (shown(call("torch._utils", "_rebuild_wrapper_subclass", b"N")), "_rebuild_wrapper"),
        "a dtype that is called": (asks(call("torch", "float32")), "torch.float32"),
        "a device that does not exist": (asks(call("torch", "device", text("x" * 2**16))), "can't be read"),
        "storages that are shared, honestly": (saved({"model": (own := whole_state()), "again": own}), "loaded"),
        "a storage in two types": (
            shown(tensor() + tensor((3,), (1,), of=storage("0", 3, "DoubleStorage")) + b"\x86"),
            "two sizes or types",
        ),
        "a storage in two sizes of number": (
            zipped(
                pickled(state(tensor((24,), (1,), of=storage("0", 24, "ByteStorage")), text("x"), tensor())),
                number_of_bytes,
            ),
            "two sizes or types",
        ),
        "a storage under the other case of its name": (
            zipped(pickled(state(tensor(of=storage("A")))), {"data/a": bytes(24), "data/1": bytes(8)}),
            "has 0 bytes",
        ),
        "a storage outside of the archive": (shown(tensor(of=storage("../../etc/passwd"))), "has 0 bytes"),
        "a storage with an absolute name": (shown(tensor(of=storage("/etc/passwd"))), "has 0 bytes"),
        "a storage of another alphabet": (shown(tensor(of=storage("\u0130"))), "no number of items"),
        "a storage of 2**62 numbers": (shown(tensor(of=storage(numel=2**62))), f"{2**64} declared"),
        "a storage of less than nothing": (shown(tensor(of=storage(numel=-1))), "no number of items"),
        "a storage shorter than declared": (shown(tensor(of=storage(numel=7))), "has 24 bytes, 28 declared"),
        "a storage that is a view": (
            shown(tensor(of=storage(tail=b"(" + text("v") + b"K\x00K\x06t"))),
            "views of one another",
        ),
        "a persistent id that is a module": (asks(b"(" + text("module") + b"NNNNtQ"), "no storage"),
        "a persistent id that is a text": (asks(text("storage") + b"Q"), "refused"),
        "a persistent id of one part": (asks(text("x") + b"\x85Q"), "can't be read"),
        "a persistent id in a line": (asks(b"Pstorage\n"), "PERSID"),
    }


def broken() -> dict[str, tuple[bytes, str]]:
    """Pickles that are not what `torch.save` writes."""
    whole = beside()
    return {
        "a pickle that does not stop": (zipped(whole[:-1]), "can't be read"),
        "an empty pickle": (zipped(b""), "can't be read"),
        "a pickle of nothing": (zipped(pickled(b"")), "can't be read"),
        "a pickle behind the pickle": (zipped(whole + reduced(os.system, "true")), "loaded"),
        "a frame of 2**63 bytes": (asks(b"\x95" + b"\x7f" * 8 + b"N"), "can't be read"),
        "a buffer outside of the file": (asks(b"\x97"), "NEXT_BUFFER"),
        "a byte array of protocol 5": (asks(b"\x96" + number(8)[:1] + bytes(7)), "can't be read"),
        "protocol 4": (zipped(pickle.dumps({"weight": 1}, 4)), "protocol 4"),
        "two protocols": (zipped(b"\x80\x02\x80\x04" + whole[2:]), "protocol 4"),
        "an opcode that is none": (asks(b"\xff"), "can't be read"),
        "popped values": (asks(b"N0N"), "POP"),
        "doubled values": (asks(b"N2\x86"), "DUP"),
        "items for a tuple": (asks(b")Na"), "fills something"),
        "items for a tensor": (asks(tensor() + b"NNs"), "fills something"),
        "a key that can't be one": (asks(b"}]Ns"), "keys other than"),
        "an odd number of keys and values": (asks(b"}(NNNu"), "can't be read"),
        "names that are numbers": (
            zipped(pickled(b"}" + text("model") + b"}K\x01" + tensor() + b"ss")),
            "expected str names",
        ),
        "weights that are numbers": (
            zipped(pickled(b"}" + text("model") + b"}" + text("weight") + b"K\x01ss")),
            "names int",
        ),
        "weights that are NumPy arrays": (saved({"model": {"weight": numpy.ones((2, 3))}}), "names LeftOut"),
        "a list in place of a dict": (zipped(pickled(b"]" + tensor() + b"a")), "holds a list"),
        "a Counter in place of a dict": (saved(Counter("ab")), "no weights found"),
        "names with line ends": (saved({"a\nb\u2028c": torch.ones(1)}), "does not fit"),
        "a name of a mebibyte": (saved({"n" * 2**20: torch.ones(1)}), "does not fit"),
        "a training file of mmengine, honestly": (saved(training_file()), "loaded"),
        "a legacy training file of mmengine, honestly": (saved(training_file(), is_zip=False), "loaded"),
    }


def cases(canary: Path) -> dict[str, tuple[bytes, str]]:
    return {**code(canary), **memory(), **tensors(), **broken()}
