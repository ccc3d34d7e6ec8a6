"""Walks a checkpoint's pickle without running it, and refuses whatever `torch.save` would not have written.

`weights_only=True` keeps a pickle from calling what it likes, but lets it call `bytearray(2**31)` or copy one list a
million times. So every opcode is followed here on stand-in values: only the callables below, with arguments in which
every tensor lies inside its storage and every storage inside the file, and no more copying than the pickle is long.
"""

from __future__ import annotations

import math
import pickletools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import IO, Any

import torch

_BYTES_PER_ITEM = {"Byte": 1, "Char": 1, "Bool": 1, "Half": 2, "BFloat16": 2, "Short": 2, "Float": 4, "Int": 4}
_BYTES_PER_ITEM |= {"Double": 8, "Long": 8, "ComplexFloat": 8, "ComplexDouble": 16}
_STORAGES = {f"torch.{name}Storage": size for name, size in _BYTES_PER_ITEM.items()}
_DTYPES = {f"torch.{name}" for name, value in vars(torch).items() if isinstance(value, torch.dtype)}
_COPYING = {"collections.OrderedDict", "collections.Counter", "builtins.set"}
_TENSORS = {"torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter"}
_CALLABLES = _COPYING | _TENSORS | {"torch.Size", "torch.device", "argparse.Namespace"}
_KNOWN = _CALLABLES | _DTYPES | _STORAGES.keys()

_LITERALS = {"NONE", "NEWFALSE", "NEWTRUE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE"} | {
    "SHORT_BINSTRING",  # Python 2 wrote it
    "SHORT_BINUNICODE",  # protocol 4, refused at its end: followed to be able to name what a hostile file asks for
}
_EMPTY = {"EMPTY_LIST": "list", "EMPTY_DICT": "dict", "EMPTY_SET": "builtins.set"}


class RefusedPickle(ValueError):
    """The pickle is no checkpoint's; the message says what is wrong with it."""


@dataclass(frozen=True)
class Storage:
    """A storage that the pickle refers to by key: `numel` items of `item_size` bytes in the file."""

    key: str
    numel: int
    item_size: int

    @property
    def nbytes(self) -> int:
        return self.numel * self.item_size


@dataclass(frozen=True)
class _Name:
    """A module-level name that the pickle looked up."""

    name: str


@dataclass(eq=False)
class _Made:
    """Stands for an object: a container, a tensor, a Namespace."""

    kind: str
    length: int = 0
    keys: list[Any] = field(default_factory=list)


def walk_pickle(file: IO[bytes], check_storage: Callable[[Storage], None]) -> Any:
    """Follows one pickle from the file's position to its end, and returns the stand-in for what it makes.

    Raises:
        RefusedPickle: names what it asks for.
        ValueError: the pickle is cut off or damaged.
    """
    machine = _Machine(check_storage)
    try:
        for opcode, argument, _ in pickletools.genops(file):
            machine.step(opcode.name, argument)
    except RefusedPickle:
        raise
    except (ValueError, LookupError, TypeError, AttributeError, MemoryError, OverflowError) as error:
        raise ValueError(f"its pickle is broken ({' '.join(str(error).split())[:120]})") from error
    if machine.protocol != 2:
        raise RefusedPickle(f"its pickle is of protocol {machine.protocol}, expected 2, which torch.save writes")
    return machine.stack.pop()


class _Machine:
    def __init__(self, check_storage: Callable[[Storage], None]) -> None:
        self.check_storage = check_storage
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.protocol = 0
        self.steps = 0
        self.copied = 0

    def step(self, opcode: str, argument: Any) -> None:
        """Does to the stack of stand-ins what unpickling would do to the stack of objects."""
        self.steps += 1
        stack = self.stack
        if opcode in _LITERALS:
            stack.append(argument)
        elif opcode in ("BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif opcode in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self.memo[len(self.memo) if argument is None else argument] = stack[-1]
        elif opcode in _EMPTY:
            stack.append(_Made(_EMPTY[opcode]))
        elif opcode == "MARK":
            self.marked.append(stack)
            self.stack = []
        elif opcode == "EMPTY_TUPLE":
            stack.append(())
        elif opcode in ("TUPLE1", "TUPLE2", "TUPLE3"):
            stack.append(tuple(self._pop(int(opcode[-1]))))
        elif opcode == "TUPLE":
            items = self._pop_mark()
            self.stack.append(tuple(items))
        elif opcode in ("APPEND", "APPENDS"):
            items = self._pop_mark() if opcode == "APPENDS" else self._pop(1)
            self._top("list").length += len(items)
        elif opcode in ("SETITEM", "SETITEMS"):
            items = self._pop_mark() if opcode == "SETITEMS" else self._pop(2)
            target = self._top("dict", "collections.OrderedDict", "collections.Counter")
            target.length += len(items) // 2
            target.keys.extend(items[::2])
        elif opcode in ("GLOBAL", "INST"):
            stack.append(_look_up(*argument.split(" ", 1)))
        elif opcode == "STACK_GLOBAL":
            stack.append(_look_up(*self._pop(2)))
        elif opcode in ("REDUCE", "NEWOBJ"):
            made, arguments = self._pop(2)
            stack.append(self._call(made, arguments))
        elif opcode == "BUILD":
            self._set_attributes(*self._pop(1))
        elif opcode == "BINPERSID":
            stack.append(self._storage(*self._pop(1)))
        elif opcode == "PROTO":
            self.protocol = argument
        elif opcode not in ("FRAME", "STOP"):
            raise RefusedPickle(f"its pickle uses {opcode}, which torch.save does not write")

    def _pop(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise ValueError("an empty stack")
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def _pop_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.marked.pop()
        return items

    def _top(self, *kinds: str) -> _Made:
        top = self.stack[-1]
        if not isinstance(top, _Made) or top.kind not in kinds:
            raise RefusedPickle(f"its pickle fills something that is no {kinds[0]}")
        return top

    def _call(self, function: Any, arguments: Any) -> Any:
        name = function.name if isinstance(function, _Name) else ""
        if name not in _CALLABLES or not isinstance(arguments, tuple):
            raise RefusedPickle(f"its pickle calls {name or 'something'} that is no function of a checkpoint")
        if name == "torch._utils._rebuild_tensor_v2":
            _check_inside(*arguments[:4])
            return _Made("tensor")
        if name == "torch._utils._rebuild_parameter":
            is_fine = isinstance(arguments[0], _Made) and arguments[0].kind == "tensor"
        elif name == "torch.Size":
            is_fine = len(arguments) == 1 and _is_sizes(arguments[0])
        elif name == "torch.device":
            is_fine = all(isinstance(argument, str | int) for argument in arguments)
        elif name == "argparse.Namespace":
            is_fine = arguments == ()
        else:
            is_fine = len(arguments) <= 1
            self._count_copies(arguments)
        if not is_fine:
            raise RefusedPickle(f"its pickle calls {name} with other arguments than torch.save writes")
        return _Made("tensor" if name.endswith("_parameter") else name, sum(map(_length, arguments)))

    def _set_attributes(self, state: Any) -> None:
        made = self._top("argparse.Namespace", "collections.OrderedDict")
        if not isinstance(state, _Made) or state.kind != "dict":
            raise RefusedPickle(f"its pickle gives a {made.kind} a state that is no dict")
        if made.kind == "collections.OrderedDict" and any(key != "_metadata" for key in state.keys):
            raise RefusedPickle("its pickle sets attributes of a dict other than a state dict's _metadata")
        self._count_copies((state,))

    def _count_copies(self, values: Iterable[Any]) -> None:
        """A pickle writes out each list that it copies once, so honest copies never outnumber its opcodes."""
        self.copied += sum(map(_length, values))
        if self.copied > self.steps:
            raise RefusedPickle("its pickle copies one list over and over: it would swell when read")

    def _storage(self, reference: Any) -> Storage:
        kind, storage_type, key, _, numel = reference[:5]
        if kind != "storage" or not isinstance(storage_type, _Name) or storage_type.name not in _STORAGES:
            raise RefusedPickle("its pickle refers to something that is no storage of numbers")
        if len(reference) == 6 and reference[5] is not None:  # the legacy format's views, gone since torch 0.4
            raise RefusedPickle("its storages are views of one another, as torch before 0.4 wrote them")
        if not isinstance(key, str) or not _is_sizes((numel,)):
            raise RefusedPickle("its pickle refers to a storage of no number of items")
        storage = Storage(key, numel, _STORAGES[storage_type.name])
        self.check_storage(storage)
        return storage


def _look_up(module: str, name: str) -> _Name:
    full = f"{'builtins' if module == '__builtin__' else module}.{name}"
    if full not in _KNOWN:
        raise RefusedPickle(
            f"its pickle asks for {full}: not one of tensors, containers, numbers, text and argparse.Namespace, "
            "and it might run code"
        )
    return _Name(full)


def _check_inside(storage: Any, offset: Any, size: Any, stride: Any) -> None:
    if (
        not isinstance(storage, Storage)
        or not all(map(_is_sizes, ((offset,), size, stride)))
        or len(size) != len(stride)
    ):
        raise RefusedPickle("its pickle makes a tensor of something else than a storage, an offset, a size and strides")
    last = offset + sum((extent - 1) * step for extent, step in zip(size, stride, strict=True))
    if math.prod(size) and last >= storage.numel:
        raise RefusedPickle(f"a tensor of size {size} reaches beyond its storage of {storage.numel} numbers")


def _is_sizes(values: Any) -> bool:
    return isinstance(values, tuple) and all(type(value) is int and value >= 0 for value in values)


def _length(value: Any) -> int:
    if isinstance(value, _Made):
        return value.length
    return len(value) if isinstance(value, str | tuple) else 0
