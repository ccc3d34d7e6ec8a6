"""Draw the loss, the validation accuracy and the learning rate of training runs.

Several runs are compared in one picture, each in its colour. A run that was resumed gives one curve. The picture of one
run is WORK_DIR/curves.png if not told otherwise, that of several curves.png.

Examples:
  visionsparse plot-curves work_dirs/biformer_nano_digits
  visionsparse plot-curves work_dirs/adamw work_dirs/lamb --out optimizers.png
"""

from __future__ import annotations

from collections.abc import Sequence

from visionsparse.cli import Parser, run


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the tool; raises InputError where a folder holds no training run."""
    summary, _, rest = (__doc__ or "").partition("\n")
    parser = Parser(prog="visionsparse plot-curves", description=summary, epilog=rest.strip())
    parser.add_argument("work_dirs", metavar="WORK_DIR", nargs="+", help="work folder of a run, such as work_dirs/NAME")
    parser.add_argument("--out", metavar="FILE", help="where the picture goes")
    arguments = parser.parse_args(argv)

    from visionsparse.visualization import draw_curves

    print(f"curves: {draw_curves(arguments.work_dirs, arguments.out)}")


if __name__ == "__main__":
    run(main)
