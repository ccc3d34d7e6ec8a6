"""Walks a checkpoint's pickle without running it, and refuses whatever `torch.save` would not have written.

`weights_only=True` keeps a pickle from calling what it likes, but lets it call `bytearray(2**31)` or copy one list a
million times. So every opcode is followed here on stand-in values: only the names of allowed.py, with arguments in
which every tensor lies inside its storage and every storage inside the file, and no more copying than the pickle is
long. What a pickle costs to read, here and in torch, is bounded by its length and by its number of opcodes.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from typing import IO, Any

from visionsparse.checkpoint.allowed import (
    COPYING,
    ENCODE,
    NAMESPACE,
    STORAGES,
    Made,
    Name,
    RefusedPickle,
    Storage,
    call,
    check_key,
    is_sizes,
    look_up,
)

MOST_BYTES = 2**25  # one odd letter makes a text take four bytes a letter
_MOST_OPCODES = 1_000_000  # an object takes some 100 bytes an opcode; BiFormer-B's training file has 50,000 opcodes
_VIEWED_TWICE = 2**26  # bytes that tensors may have beyond twice those of their storages: of expanded and tied ones

_CONSTANTS = {"NONE": None, "NEWFALSE": False, "NEWTRUE": True}
_LITERALS = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE"} | {
    "SHORT_BINSTRING",  # Python 2 wrote it
    "SHORT_BINUNICODE",  # protocol 4, refused at its end: followed to be able to name what a hostile file asks for
}
_EMPTY = {"EMPTY_LIST": "list", "EMPTY_DICT": "dict"}


def walk_pickle(file: IO[bytes], check_storage: Callable[[Storage], None]) -> Any:
    """Follows one pickle from the file's position to its end, and returns the stand-in for what it makes.

    Args:
        file: nothing beyond MOST_BYTES from its position is read.
        check_storage: raises where a storage is not in the file; called once for each key.

    Raises:
        RefusedPickle: names what it asks for.
        ValueError: the pickle is cut off or damaged.
    """
    machine = _Machine(check_storage)
    try:
        for opcode, argument, _ in pickletools.genops(_Bounded(file)):  # type: ignore[arg-type]
            machine.step(opcode.name, argument)
    except RefusedPickle:
        raise
    except (ValueError, LookupError, TypeError, AttributeError, MemoryError, OverflowError) as error:
        raise ValueError(f"its pickle is broken ({' '.join(str(error).split())[:120]})") from error
    if machine.protocol != 2:
        raise RefusedPickle(f"its pickle is of protocol {machine.protocol}, expected 2, which torch.save writes")
    return machine.result()


class _Bounded:
    """A file of which only the next MOST_BYTES can be read."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.left = MOST_BYTES

    def read(self, count: int) -> bytes:
        return self._counted(self.file.read(min(count, self.left + 1)))

    def readline(self) -> bytes:
        return self._counted(self.file.readline(self.left + 1))

    def _counted(self, data: bytes) -> bytes:
        self.left -= len(data)
        if self.left < 0:
            raise RefusedPickle(f"its pickle is longer than {MOST_BYTES >> 20} MiB, storages not counted")
        return data


class _Machine:
    def __init__(self, check_storage: Callable[[Storage], None]) -> None:
        self.check_storage = check_storage
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}
        self.protocol = 0
        self.steps = 0
        self.copied = 0
        self.letters = 0
        self.encoded = 0
        self.tensor_bytes = 0

    def step(self, opcode: str, argument: Any) -> None:
        """Does to the stack of stand-ins what unpickling would do to the stack of objects."""
        self.steps += 1
        if self.steps > _MOST_OPCODES:
            raise RefusedPickle(f"its pickle has over {_MOST_OPCODES} opcodes: too many for weights")
        stack = self.stack
        if opcode in _LITERALS:
            self.letters += len(argument) if isinstance(argument, str) else 0
            stack.append(argument)
        elif opcode in _CONSTANTS:
            stack.append(_CONSTANTS[opcode])
        elif opcode in ("BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif opcode in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self.memo[len(self.memo) if argument is None else argument] = stack[-1]
        elif opcode in _EMPTY:
            stack.append(Made(_EMPTY[opcode]))
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
            self._top("list").items.extend(items)
        elif opcode in ("SETITEM", "SETITEMS"):
            items = self._pop_mark() if opcode == "SETITEMS" else self._pop(2)
            target = self._top("dict", "collections.OrderedDict", "collections.Counter")
            target.items.extend(map(check_key, items[::2]))
        elif opcode in ("GLOBAL", "INST"):
            stack.append(look_up(*argument.split(" ", 1)))
        elif opcode == "STACK_GLOBAL":
            stack.append(look_up(*self._pop(2)))
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

    def result(self) -> Any:
        stored = sum(storage.nbytes for storage in self.storages.values())
        if self.tensor_bytes > 2 * stored + _VIEWED_TWICE:
            raise RefusedPickle("its tensors show the same numbers over and over: they would swell when copied")
        return self.stack.pop()

    def _pop(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise ValueError("an empty stack")
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def _pop_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.marked.pop()
        return items

    def _top(self, *kinds: str) -> Made:
        top = self.stack[-1]
        if not isinstance(top, Made) or top.kind not in kinds:
            raise RefusedPickle(f"its pickle fills something that is no {kinds[0]}")
        return top

    def _call(self, function: Any, arguments: Any) -> Made:
        if isinstance(function, Name) and function.name in COPYING:
            self._count_copies(*arguments)
        made = call(function, arguments)
        self.tensor_bytes += made.nbytes
        if made.kind == ENCODE:
            self.encoded += len(arguments[0])
            if self.encoded > self.letters:
                raise RefusedPickle("its pickle encodes one text over and over: it would swell when read")
        return made

    def _set_attributes(self, state: Any) -> None:
        made = self._top(NAMESPACE, "collections.OrderedDict", "left out")
        if made.kind == "left out":
            return
        if not isinstance(state, Made) or state.kind != "dict":
            raise RefusedPickle(f"its pickle gives a {made.kind} a state that is no dict")
        if made.kind == "collections.OrderedDict" and any(key != "_metadata" for key in state.items):
            raise RefusedPickle("its pickle sets attributes of a dict other than a state dict's _metadata")
        if any(not isinstance(key, str) or key.startswith("__") for key in state.items):
            raise RefusedPickle(f"its pickle sets attributes of a {made.kind} that have a meaning to Python")
        self._count_copies(state)

    def _count_copies(self, *values: Any) -> None:
        """A pickle writes out each list that it copies once, so honest copies never outnumber its opcodes."""
        self.copied += sum(len(value.items) for value in values if isinstance(value, Made))
        if self.copied > self.steps:
            raise RefusedPickle("its pickle copies one list over and over: it would swell when read")

    def _storage(self, reference: Any) -> Storage:
        kind, storage_type, key, _, numel = reference[:5]
        if kind != "storage" or not isinstance(storage_type, Name) or storage_type.name not in STORAGES:
            raise RefusedPickle("its pickle refers to something that is no storage of numbers")
        if len(reference) == 6 and reference[5] is not None:  # the legacy format's views, gone since torch 0.4
            raise RefusedPickle("its storages are views of one another, as torch before 0.4 wrote them")
        if not isinstance(key, str) or not key.isascii() or not is_sizes((numel,)):
            raise RefusedPickle("its pickle refers to a storage of no number of items")
        storage = Storage(key, numel, storage_type.name)
        if key not in self.storages:
            self.check_storage(storage)
        if self.storages.setdefault(key, storage) != storage:
            raise RefusedPickle(f"its storage {key} comes in two sizes or types")
        return storage
