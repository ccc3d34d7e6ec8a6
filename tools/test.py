"""Evaluate a checkpoint on the test set of a config.

Prints top-1, top-5, calibration error (ECE) and accuracy per class. With --out, writes them and the confusion matrix as
one JSON object, and the matrix as a picture beside it (results.json, results_confusion.png). Until then, what is
finished lies in results.json.parts: after Ctrl-C or a crash the same command goes on there, on any number of processes.

Example:
  visionsparse test biformer/biformer_nano_digits work_dirs/biformer_nano_digits/epoch_24.pth --out results.json
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from visionsparse.cli import Parser, key_value_pairs, run

CLASSES_SHOWN = 20


def main(argv: Sequence[str] | None = None) -> None:
    """Parses the command line, tests, prints the tables and draws the confusion matrix."""
    summary, _, rest = (__doc__ or "").partition("\n")
    parser = Parser(prog="visionsparse test", description=summary, epilog=rest.strip())
    parser.add_argument("config", metavar="CONFIG", help="path or name, such as biformer/biformer_nano_digits")
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="ours or a published one; path or URL")
    parser.add_argument("--out", metavar="results.json", help="write the results there")
    parser.add_argument("--device", default="auto", metavar="D", help="cpu, cuda, cuda:1 or auto (default)")
    parser.add_argument(
        "--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="changes to the config, by dotted key"
    )
    arguments = parser.parse_args(argv)

    from visionsparse.apis import test

    result = test(
        arguments.config,
        arguments.checkpoint,
        out=arguments.out,
        device=arguments.device,
        options=key_value_pairs(arguments.cfg_options),
    )
    if int(os.environ.get("RANK", 0)) != 0:
        return
    _print_tables(result)
    if arguments.out and "confusion_matrix" in result:
        from visionsparse.visualization.confusion import draw_confusion_matrix

        names = [entry["class_name"] for entry in result["per_class"]]
        out = Path(arguments.out)
        picture = draw_confusion_matrix(result["confusion_matrix"], names, out.with_name(f"{out.stem}_confusion.png"))
        print(f"wrote {out} and {picture}")


def _print_tables(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    numbers = {name: value for name, value in result.items() if isinstance(value, int | float)}
    summary = Table(title=f"{result['model']} on {result['config']}")
    for name in numbers:
        summary.add_column(f"{name} %" if name.startswith("top") else name, justify="right")
    summary.add_row(*(_shown(name, value) for name, value in numbers.items()))
    console.print(summary)

    per_class = [entry for entry in result.get("per_class", []) if entry["num_images"]]
    if not per_class:
        return
    is_cut = len(per_class) > CLASSES_SHOWN
    if is_cut:
        per_class = sorted(per_class, key=lambda entry: entry["top1"])[:CLASSES_SHOWN]
    table = Table(title=f"the {CLASSES_SHOWN} hardest classes" if is_cut else "per class")
    for column in ("class", "images", "top1 %"):
        table.add_column(column, justify="left" if column == "class" else "right")
    for entry in per_class:
        table.add_row(entry["class_name"], str(entry["num_images"]), f"{entry['top1']:.2f}")
    console.print(table)


def _shown(name: str, value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.4f}" if name == "ece" else f"{value:.2f}"


if __name__ == "__main__":
    run(main)
