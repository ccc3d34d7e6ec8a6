"""List the models: names, sizes, costs, published and measured results.

Examples:
  visionsparse list-models
  visionsparse list-models 'biformer_s*' --task classification --json

GMACs are multiply-adds (what papers call FLOPs) at the input size. Published results are the authors', measured ones
ours.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from visionsparse.cli import Parser, run


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the models that match, as a table or as JSON."""
    summary, _, rest = (__doc__ or "").partition("\n")
    parser = Parser(prog="visionsparse list-models", description=summary, epilog=rest.strip())
    parser.add_argument("pattern", metavar="PATTERN", nargs="?", default="*", help="names with wildcards (quote it)")
    parser.add_argument("--task", metavar="T", help="only models for this task, such as classification")
    parser.add_argument("--json", action="store_true", help="print every fact that is known, as JSON")
    arguments = parser.parse_args(argv)

    from visionsparse.zoo import list_models, variant

    found = [variant(name) for name in list_models(arguments.pattern, task=arguments.task)]
    if arguments.json:
        print(json.dumps([{"system": entry.system, **entry.facts} for entry in found], indent=1))
        return
    if not found:
        print(f"no model matches {arguments.pattern!r}")
        return
    _print_table([entry.facts for entry in found])


def _print_table(rows: Sequence[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        console = Console(width=200)  # a file or a pipe has no width: nothing is cut
    table = Table("name", "task", box=None, pad_edge=False)
    for title in ("parameters", "GMACs", "input", "published top-1 %", "measured top-1 %"):
        table.add_column(title, justify="right")
    for facts in rows:
        table.add_row(
            facts["name"],
            facts["task"],
            f"{facts['params']:,}",
            "" if facts.get("gmacs") is None else f"{facts['gmacs']:.3f}",
            " x ".join(map(str, facts["input_size"][1:])),
            _top1(facts.get("published")),
            _top1(facts.get("measured")),
        )
    console.print(table)
    for facts in rows:
        if facts.get("measured"):
            measured = facts["measured"]
            console.print(f"{facts['name']}: measured on {measured['data']}; {measured['device']}", highlight=False)


def _top1(result: dict[str, Any] | None) -> str:
    return f"{result['top1']:.1f}" if result else ""


if __name__ == "__main__":
    run(main)
