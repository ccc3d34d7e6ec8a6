"""What a checkpoint's pickle may ask for, with which arguments, on the stand-ins that pickles.py follows it with.

Three kinds of names: what `torch.save` writes for weights and plain values (torch's own readers make those);
argparse.Namespace, a bag of attributes; and what mmengine's training files hold beside the weights (NumPy numbers,
logged histories), in whose place `LeftOut` is made, so that nothing of NumPy or mmengine runs.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass, field
from typing import Any

import torch

_BYTES_PER_ITEM = {"Byte": 1, "Char": 1, "Bool": 1, "Half": 2, "BFloat16": 2, "Short": 2, "Float": 4, "Int": 4}
_BYTES_PER_ITEM |= {"Double": 8, "Long": 8, "ComplexFloat": 8, "ComplexDouble": 16}
STORAGES = {f"torch.{name}Storage": size for name, size in _BYTES_PER_ITEM.items()}
_DTYPES = {f"torch.{name}" for name, value in vars(torch).items() if isinstance(value, torch.dtype)}
TENSOR, PARAMETER = "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter"
NAMESPACE = "argparse.Namespace"
COPYING = {"collections.OrderedDict", "collections.Counter", "builtins.set"}
ENCODE = "_codecs.encode"  # bytes, in protocol 2
_HISTORY = "mmengine.logging.history_buffer.HistoryBuffer"
_GETATTR = "builtins.getattr"  # by which a history names its own statistics
_NUMPY = {f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")}
LEFT_OUT = _NUMPY | {"numpy.ndarray", "numpy.dtype", "builtins.bytes", _HISTORY, _GETATTR}
_CALLABLES = COPYING | LEFT_OUT | {TENSOR, PARAMETER, NAMESPACE, ENCODE, "torch.Size", "torch.device"}
_KNOWN = _CALLABLES | _DTYPES | STORAGES.keys()

_MAX_DIMENSIONS = 64  # torch's own limit in most operations


class RefusedPickle(ValueError):
    """The file is no checkpoint, or a dangerous one; the message says what is wrong with it."""


class LeftOut:
    """In the place of something that is not read."""

    def __new__(cls, *_: Any) -> LeftOut:
        """Takes any arguments and keeps none."""
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        """Keeps nothing."""


def safe_globals() -> list[Any]:
    """What `torch.load` has to be told of besides its own list."""
    python_2 = {name.replace("builtins", "__builtin__") for name in LEFT_OUT}
    return [argparse.Namespace, *((LeftOut, name) for name in LEFT_OUT | python_2)]


@dataclass(frozen=True)
class Storage:
    """A storage that the pickle refers to by key: `numel` numbers of a type, all in the file."""

    key: str
    numel: int
    type: str

    @property
    def nbytes(self) -> int:
        return self.numel * STORAGES[self.type]


@dataclass(frozen=True)
class Name:
    """A module-level name that the pickle looked up."""

    name: str


@dataclass(eq=False, slots=True)
class Made:
    """Stands for an object; `items` are a list's, or the keys of a dict; `nbytes` are a tensor's."""

    kind: str
    items: list[Any] = field(default_factory=list)
    nbytes: int = 0


def look_up(module: str, name: str) -> Name:
    """The stand-in for a name of `_KNOWN`."""
    full = f"{'builtins' if module == '__builtin__' else module}.{name}"
    if full not in _KNOWN:
        raise RefusedPickle(
            f"its pickle asks for {full}: not one of tensors, containers, numbers, text and argparse.Namespace, "
            "and it might run code"
        )
    return Name(full)


def call(function: Any, arguments: Any) -> Any:
    """The stand-in for what `function(*arguments)` makes."""
    name = function.name if isinstance(function, Name) else ""
    if name not in _CALLABLES or not isinstance(arguments, tuple):
        raise RefusedPickle(f"its pickle calls {name or 'something'} that is no function of a checkpoint")
    if name == TENSOR:
        return _tensor(*arguments)
    if name == PARAMETER:
        return _parameter(*arguments)
    if name == "torch.Size":
        is_fine = len(arguments) == 1 and is_sizes(arguments[0])
    elif name == "torch.device":
        is_fine = all(isinstance(argument, str | int) for argument in arguments)
    elif name == NAMESPACE:
        is_fine = arguments == ()
    elif name == ENCODE:
        is_fine = len(arguments) == 2 and isinstance(arguments[0], str) and arguments[1] == "latin1"
    elif name == _GETATTR:
        is_fine = len(arguments) == 2 and arguments[0] == Name(_HISTORY) and isinstance(arguments[1], str)
    elif name in COPYING:
        is_fine = not arguments or (len(arguments) == 1 and isinstance(arguments[0], Made))
    else:
        is_fine = name in LEFT_OUT
    if not is_fine:
        raise RefusedPickle(f"its pickle calls {name} with other arguments than torch.save writes")
    if name in COPYING and arguments:
        return Made(name, [check_key(item, name) for item in arguments[0].items])
    return Made("left out" if name in LEFT_OUT else name)


def check_key(key: Any, kind: str = "dict") -> Any:
    """`key`, if hashing it is quick and harmless: nested tuples can take for ever, or all of the stack."""
    if kind == "collections.OrderedDict":  # Python 2 gave it a list of pairs
        pair = key.items if isinstance(key, Made) else key
        key = pair[0] if isinstance(pair, list | tuple) and len(pair) == 2 else pair
    for part in key if isinstance(key, tuple) else (key,):
        if part is not None and not isinstance(part, str | int | float | Name):
            raise RefusedPickle(f"its pickle has a {kind} with keys other than text and numbers")
    return key


def is_sizes(values: Any) -> bool:
    """Whether `values` are a tensor's sizes, or strides."""
    return (
        isinstance(values, tuple)
        and len(values) <= _MAX_DIMENSIONS
        and all(type(value) is int and 0 <= value < 2**63 for value in values)
    )


def _tensor(*arguments: Any) -> Made:
    if len(arguments) not in (6, 7) or not isinstance(arguments[4], bool) or arguments[6:] not in ((), (None,)):
        raise RefusedPickle("its pickle makes a tensor with other arguments than torch.save writes")
    storage, offset, size, stride, _, hooks = arguments[:6]
    if (
        not isinstance(storage, Storage)
        or not all(map(is_sizes, ((offset,), size, stride)))
        or len(size) != len(stride)
    ):
        raise RefusedPickle("its pickle makes a tensor of something else than a storage, an offset, a size and strides")
    last = offset + sum((extent - 1) * step for extent, step in zip(size, stride, strict=True))
    if math.prod(size) and last >= storage.numel:
        raise RefusedPickle(f"a tensor of size {size} reaches beyond its storage of {storage.numel} numbers")
    _check_no_hooks(hooks)
    return Made("tensor", nbytes=math.prod(size) * STORAGES[storage.type])


def _parameter(*arguments: Any) -> Made:
    is_fine = len(arguments) == 3 and isinstance(arguments[0], Made) and arguments[0].kind == "tensor"
    if not is_fine or not isinstance(arguments[1], bool):
        raise RefusedPickle(f"its pickle calls {PARAMETER} with other arguments than torch.save writes")
    _check_no_hooks(arguments[2])
    return Made("tensor")  # shares the numbers of the one that is counted


def _check_no_hooks(hooks: Any) -> None:
    """Backward hooks are an empty dict; renamed, it can't be filled any more."""
    if not isinstance(hooks, Made) or hooks.kind not in ("collections.OrderedDict", "no hooks") or hooks.items:
        raise RefusedPickle("its pickle gives a tensor hooks, which torch.save never writes")
    hooks.kind = "no hooks"
