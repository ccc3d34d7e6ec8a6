"""Measure ops, models or training against what one would otherwise pick, side by side in one process.

Examples:
  visionsparse benchmark ops --op block_sparse_attention --case '8k/*' --threads 1,2 --json 8k.json --plot 8k.png
  visionsparse benchmark ops --dry-run
  visionsparse benchmark models biformer_tiny swin_tiny_patch4_window7_224 --batch-size 1,8
  visionsparse benchmark training biformer/biformer_nano_digits --workers 0,1,2

Ctrl-C ends it; what is measured by then is shown and written.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from visionsparse.cli import Parser, run


def main(argv: Sequence[str] | None = None) -> None:
    """Parses the command line, measures, prints the table and writes what was asked for."""
    words = list(sys.argv[1:] if argv is None else argv)
    arguments = _parser().parse_args(words)

    from visionsparse.benchmark import session

    arguments.command = shlex.join(["visionsparse", "benchmark", *words])
    {"ops": session.ops, "models": session.models, "training": session.training}[arguments.what](arguments)


def _parser() -> Parser:
    summary, _, rest = (__doc__ or "").partition("\n")
    parser = Parser(prog="visionsparse benchmark", description=summary, epilog=rest.strip())
    kinds = parser.add_subparsers(dest="what", required=True, metavar="ops|models|training")

    ops = kinds.add_parser("ops", help="every op and backend, and what one would otherwise pick")
    ops.add_argument("--op", nargs="+", default=[], metavar="NAME", help="only these ops")
    ops.add_argument("--case", nargs="+", default=["*"], metavar="GLOB", help="only these cases, such as '8k/64/*'")
    ops.add_argument("--candidate", nargs="+", default=["*"], metavar="GLOB", help="only these, and the baseline")
    ops.add_argument("--dtype", type=_words, default=["fp32"], metavar="D", help="fp32 (default), bf16, fp16")
    ops.add_argument("--forward-only", action="store_true", help="no forward+backward")
    ops.add_argument("--plot", type=Path, metavar="FILE", help="a picture of time against density")
    ops.add_argument("--dry-run", action="store_true", help="print what would be measured, and its roofline")

    models = kinds.add_parser("models", help="images/s of nets of the zoo and of timm")
    models.add_argument("names", nargs="+", metavar="NAME", help="of the zoo or of timm; the first is the baseline")
    models.add_argument("--image-size", type=_positive, default=224, metavar="N", help="pixels a side (224)")
    models.add_argument("--batch-size", type=_numbers, default=[1, 8], metavar="N,...", help="images a call (1,8)")
    models.add_argument("--dry-run", action="store_true", help="print what would be measured")

    training = kinds.add_parser("training", help="images/s of a training epoch by workers; a save, a resume")
    training.add_argument("config", metavar="CONFIG", help="path or name, such as biformer/biformer_nano_digits")
    training.add_argument(
        "--workers", type=lambda text: _numbers(text, least=0), default=[0, 1, 2], metavar="N,...", help="(0,1,2)"
    )
    training.add_argument(
        "--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="changes to the config, by dotted key"
    )
    for kind in (ops, models, training):
        kind.add_argument("--threads", type=_numbers, default=[1], metavar="N,...", help="of torch on CPU (1)")
        kind.add_argument("--device", default="auto", metavar="D", help="cpu, cuda, cuda:1 or auto (default)")
        kind.add_argument("--rounds", type=_positive, metavar="N", help="turns of every candidate (default: by time)")
        kind.add_argument("--json", type=Path, metavar="FILE", help="write everything that is known, as JSON")
    for kind in (ops, models):
        kind.add_argument("--seconds", type=float, default=10.0, metavar="S", help="for the rounds of a group (10)")
    return parser


def _positive(text: str) -> int:
    return _numbers(text)[0]


def _numbers(text: str, least: int = 1) -> list[int]:
    try:
        numbers = [int(word) for word in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < least:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of whole numbers from {least} on, such as 1,2")
    return numbers


def _words(text: str) -> list[str]:
    known = ("fp32", "bf16", "fp16")
    words = text.split(",")
    if not set(words) <= set(known):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of {', '.join(known)}")
    return words


if __name__ == "__main__":
    run(main)
