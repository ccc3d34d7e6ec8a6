"""The `visionsparse` command: `visionsparse NAME ...` runs `visionsparse.tools.NAME`.

Listing the tools reads their docstrings as text, so that `visionsparse --help` imports neither torch nor a tool.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from visionsparse.errors import InputError, UserError, did_you_mean
from visionsparse.files import no_room, write_text

TOOLS = Path(__file__).parent / "tools"


class Parser(argparse.ArgumentParser):
    """argparse with whole flags only, and near misses named where a flag is wrong."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs)

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        parsed, unknown = self.parse_known_args(args, namespace)
        flags = [flag for flag in self._known_flags() if flag.startswith("--")]
        for word in unknown:
            hint = did_you_mean(word.split("=")[0], flags) if word.startswith("-") else ""
            self.error(f"{word}: no such flag or argument.{hint}")
        return parsed

    def _known_flags(self) -> Iterator[str]:
        """Its own and those of its subcommands."""
        for action in self._actions:
            yield from action.option_strings
            if isinstance(action, argparse._SubParsersAction):
                for parser in action.choices.values():
                    yield from parser._known_flags()

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} See {self.prog} --help.\n")


def key_value_pairs(words: Sequence[str]) -> dict[str, Any]:
    """`["optim_wrapper.optimizer.lr=1e-4", "model.backbone.topks=(1,4)"]` as a dict: Python literals, else text."""
    pairs = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise UserError(f"--cfg-options {word}: expected KEY=VALUE, such as optim_wrapper.optimizer.lr=1e-4.")
        try:
            pairs[key] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            pairs[key] = {"true": True, "false": False, "none": None}.get(text.lower(), text)
    return pairs


def write_json(path: str, content: Any) -> None:
    """Writes what `--json` asks for, and says where. Raises InputError where it can't."""
    try:
        write_text(path, json.dumps(content, indent=1) + "\n")
    except OSError as error:
        raise InputError(f"{path}: can't be written: {error.strerror}. Name another place.") from error
    print(f"json: {path}")


def run(tool: Callable[[Sequence[str] | None], None], argv: Sequence[str] | None = None) -> NoReturn:
    """A tool's main. A UserError or a full disk becomes one line on stderr and exit code 2; Ctrl-C 130, SIGTERM 143."""
    former = signal.getsignal(signal.SIGTERM)
    # Under torchrun the default stays: it sends SIGTERM to who waits in vain for a dead process, where no handler runs.
    if "LOCAL_RANK" not in os.environ:
        signal.signal(signal.SIGTERM, _terminate)
    try:
        tool(argv)
    except UserError as error:
        print(f"visionsparse: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        line = no_room(error)
        if line is None:
            raise
        print(f"visionsparse: {line}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second one may end the clearing up, without a traceback
        print("visionsparse: interrupted", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    finally:
        signal.signal(signal.SIGTERM, former)
    sys.exit(0)


def _terminate(number: int, frame: Any) -> NoReturn:
    """Leaves by way of every `finally`, so that data-loading processes end too."""
    print("visionsparse: terminated", file=sys.stderr)
    sys.exit(128 + number)


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Entry point of the `visionsparse` command."""
    argv = list(sys.argv[1:] if argv is None else argv)
    tools = {path.stem.replace("_", "-"): path for path in sorted(TOOLS.glob("*.py")) if path.stem != "__init__"}
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: visionsparse NAME ...        (visionsparse NAME --help tells what NAME takes)\n")
        width = max(map(len, tools))
        for name, path in tools.items():
            summary = (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n")[0]
            print(f"  {name:{width}}  {summary}")
        sys.exit(0)
    if argv[0] == "--version":
        from visionsparse import __version__

        print(f"visionsparse {__version__}")
        sys.exit(0)
    name = argv[0].replace("_", "-")
    if name not in tools:
        print(f"visionsparse: {argv[0]!r} is not a tool.{did_you_mean(argv[0], tools)}", file=sys.stderr)
        sys.exit(2)
    run(lambda words: importlib.import_module(f"visionsparse.tools.{tools[name].stem}").main(words), argv[1:])
