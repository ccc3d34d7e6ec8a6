"""Draw which regions a model's sparse attention reads for chosen points of an image.

A row for the last routed block of every stage, a column for every point. A model that was published goes by its name, a
model that you trained by its config; points count from the upper left corner of the image file.

Examples:
  visionsparse routes biformer_tiny cat.jpg --checkpoint biformer_tiny_in1k.pth --point 160,120 --point 100,80
  visionsparse routes biformer_tiny cat.jpg --checkpoint biformer_tiny_in1k.pth --stage 3 --block all --out stage3.png
"""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Sequence

from visionsparse.cli import Parser, run, write_json


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the tool; raises a UserError for what the user can mend."""
    summary, _, rest = (__doc__ or "").partition("\n")
    parser = Parser(prog="visionsparse routes", description=summary, epilog=rest.strip())
    parser.add_argument("model", metavar="MODEL_OR_CONFIG", help="a model's name, or a config by name or path")
    parser.add_argument("image", metavar="IMAGE", help="image file")
    parser.add_argument("--checkpoint", metavar="FILE", help="the model's weights: path or URL (needed)")
    parser.add_argument(
        "--point", metavar="X,Y", dest="points", action="append", type=_point,
        help="a point in pixels of IMAGE; once for each point (default: three points)",
    )  # fmt: skip
    parser.add_argument(
        "--stage", metavar="N", dest="stages", action="append", type=int,
        help="a stage, counted from 1; once for each (default: every stage that routes)",
    )  # fmt: skip
    parser.add_argument(
        "--block", metavar="B", type=_block, default="last", help="of each stage: last (default), all or its number"
    )
    parser.add_argument("--out", metavar="FILE", default="routes.png", help="the picture (default: routes.png)")
    parser.add_argument("--json", metavar="FILE", help="write the regions, best first, with their boxes in IMAGE")
    parser.add_argument("--device", metavar="D", help="cpu, cuda or cuda:N (default: a GPU where there is one)")
    arguments = parser.parse_args(argv)

    from visionsparse import apis, pictures

    apis.require_checkpoint(arguments.model, arguments.checkpoint)
    model = apis.init_model(arguments.model, arguments.checkpoint, arguments.device)
    seen = pictures.see_routes(model, arguments.image, stages=arguments.stages, block=arguments.block)
    print(f"routes: {seen.draw(arguments.out, arguments.points)}")
    if arguments.json:
        write_json(arguments.json, seen.find(arguments.points))


def _point(word: str) -> tuple[float, float]:
    try:
        x, y = map(float, word.split(","))
    except ValueError:
        raise ArgumentTypeError(f"{word!r}: expected X,Y in pixels of the image, such as 160,120.") from None
    return x, y


def _block(word: str) -> str | int:
    if word in ("last", "all"):
        return word
    try:
        return int(word)
    except ValueError:
        raise ArgumentTypeError(f"{word!r}: expected last, all or a number.") from None


if __name__ == "__main__":
    run(main)
