"""Draw the loss, the learning rate and the validation accuracy of a training run.

A run that was resumed gives one curve. The picture is WORK_DIR/curves.png if not told otherwise.

Example:
  visionsparse plot-curves work_dirs/biformer_nano_digits
"""

from __future__ import annotations

from collections.abc import Sequence

from visionsparse.cli import Parser, run


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the tool; raises InputError where the folder holds no training run."""
    summary, _, rest = (__doc__ or "").partition("\n")
    parser = Parser(prog="visionsparse plot-curves", description=summary, epilog=rest.strip())
    parser.add_argument("work_dir", metavar="WORK_DIR", help="work folder of a run, such as work_dirs/NAME")
    parser.add_argument("--out", metavar="FILE", help="where the picture goes (default: WORK_DIR/curves.png)")
    arguments = parser.parse_args(argv)

    from visionsparse.visualization import draw_curves

    print(f"curves: {draw_curves(arguments.work_dir, arguments.out)}")


if __name__ == "__main__":
    run(main)
