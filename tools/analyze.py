"""Compare models by cost: parameters, GMACs, what sparsity skips, memory, speed.

Models of visionsparse and of timm, side by side, measured here with random weights in float32. GMACs are multiply-adds
an image (what papers call FLOPs); skipped is the share of the work that the same net with dense attention would do
more. Peak memory holds the weights, the images and whatever is alive in the forward pass. --plot draws top-1 against
GMACs for models whose metafile has a published top-1, and for those given by --top1.

Examples:
  visionsparse analyze biformer_tiny biformer_small swin_tiny_patch4_window7_224
  visionsparse analyze biformer_tiny resnet50 --image-size 224 448 --batch-size 1 8 --json costs.json
  visionsparse analyze biformer_tiny biformer_small resnet50 --top1 resnet50=80.4 --plot costs.png
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from visionsparse.cli import Parser, run, write_json
from visionsparse.errors import ConfigError, InputError

Row = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the tool; raises a UserError for what the user can mend."""
    summary, _, rest = (__doc__ or "").partition("\n")
    parser = Parser(prog="visionsparse analyze", description=summary, epilog=rest.strip())
    parser.add_argument("names", metavar="NAME", nargs="+", help="a model of visionsparse or of timm")
    parser.add_argument(
        "--image-size", metavar="S", nargs="+", type=int, help="sides of square images (default: each model's own)"
    )
    parser.add_argument(
        "--batch-size", metavar="B", nargs="+", type=int, default=[1], help="images at once (default: 1)"
    )
    parser.add_argument("--device", metavar="D", default="cpu", help="cpu (default), cuda or cuda:N")
    parser.add_argument("--seconds", metavar="T", type=float, default=5.0, help="for timing one setting (default 5)")
    parser.add_argument("--json", metavar="FILE", help="write the rows and the machine")
    parser.add_argument("--plot", metavar="FILE", help="draw top-1 against GMACs (.png, .pdf, .svg)")
    parser.add_argument("--top1", metavar="NAME=PERCENT", nargs="+", default=[], help="accuracies for --plot")
    arguments = parser.parse_args(argv)

    import torch

    from visionsparse.benchmark.machine import describe
    from visionsparse.comparison import compare
    from visionsparse.engine.device import choose_device

    given = _accuracies(arguments.top1, arguments.names)
    device = choose_device(arguments.device)
    settings = compare(
        list(dict.fromkeys(arguments.names)),
        image_sizes=arguments.image_size,
        batch_sizes=arguments.batch_size,
        device=device,
        seconds=arguments.seconds,
    )
    rows = [row for setting in settings for row in setting]
    machine = {**describe(device), "threads": torch.get_num_threads(), "dtype": "float32"}
    _print_table(rows)
    where = machine["cpu"] if device.type == "cpu" else machine["device"]
    print(f"on {where}, {machine['threads']} threads, torch {machine['versions']['torch']}, float32, random weights")
    if arguments.json:
        write_json(arguments.json, {"machine": machine, "rows": rows})
    if arguments.plot:
        from visionsparse.visualization.costs import draw_costs

        print(f"plot: {draw_costs(_points(rows, given), arguments.plot)}")
    if rows and all("refused" in row for row in rows):
        raise InputError("no model takes any of these sizes: the reasons are above.")


def _accuracies(words: Sequence[str], names: Sequence[str]) -> dict[str, float]:
    found = {}
    for word in words:
        name, _, value = word.partition("=")
        try:
            found[name] = float(value)
        except ValueError:
            raise ConfigError(f"--top1 {word}: expected NAME=PERCENT, such as resnet50=80.4.") from None
        if name not in names:
            raise ConfigError(f"--top1 {word}: {name} is not among the models: {', '.join(names)}.")
    return found


def _points(rows: Sequence[Row], given: dict[str, float]) -> list[Any]:
    """One a model: at the size that its accuracy was published for, or at its first where the accuracy is given."""
    from visionsparse.visualization.costs import Point

    points = {}
    for row in rows:
        top1 = given.get(row["model"], (row.get("published") or {}).get("top1"))
        if top1 is not None and "refused" not in row:
            points.setdefault(row["model"], Point(row["model"], row["gmacs"], row["parameters"], top1))
    return list(points.values())


def _print_table(rows: Sequence[Row]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        console = Console(width=200)  # a file or a pipe has no width: nothing is cut
    table = Table("model", box=None, pad_edge=False)
    titles = "parameters|image|batch|GMACs|dense GMACs|skipped %|peak MiB|images/s|published top-1 %"
    for title in titles.split("|"):
        table.add_column(title, justify="right")
    for row in rows:
        cells = [row["model"], f"{row['parameters']:,}", _size(row), str(row["batch_size"])]
        if "refused" not in row:
            cells += [f"{row['gmacs']:.3f}", f"{row['dense_gmacs']:.3f}", f"{100 * row['skipped']:.1f}"]
            cells += [
                f"{row['peak_mib']:.1f}",
                f"{row['images_per_second']:.1f}",
                f"{row['published']['top1']:.1f}" if row["published"] else "",
            ]
        table.add_row(*cells)
    console.print(table)
    for row in rows:
        if "refused" in row:
            print(f"{row['model']} at {_size(row)}: {row['refused']}")


def _size(row: Row) -> str:
    return " x ".join(map(str, row["image_size"]))


if __name__ == "__main__":
    run(main)
