"""Convert a checkpoint from its published layout to ours, or back, bit for bit.

Ours is a .safetensors file in the model's own names, and beside it a .json that says where the weights came from. The
published layout is a .pth file that the authors' code loads. The model is told by the weights where only one fits.

Examples:
  visionsparse convert biformer_tiny_in1k.pth biformer_tiny.safetensors
  visionsparse convert biformer_tiny.safetensors as_published.pth --to published
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from visionsparse.cli import Parser, run


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the tool; raises a UserError for what the user can mend."""
    summary, _, rest = (__doc__ or "").partition("\n")
    parser = Parser(prog="visionsparse convert", description=summary, epilog=rest.strip())
    parser.add_argument("source", metavar="SRC", help="a published checkpoint, one of ours, or a training file")
    parser.add_argument("target", metavar="DST", help="the file to write: .safetensors (ours) or .pth (published)")
    parser.add_argument("--model", metavar="NAME", help="whose weights these are (default: told by the weights)")
    parser.add_argument(
        "--to", choices=("ours", "published"), default="ours", help="the layout to write (default: ours)"
    )
    parser.add_argument("--force", action="store_true", help="overwrite DST and the .json beside it")
    arguments = parser.parse_args(argv)

    from visionsparse.conversion import convert_checkpoint, describe

    provenance = convert_checkpoint(
        arguments.source, arguments.target, model=arguments.model, to=arguments.to, force=arguments.force
    )
    print(describe(provenance))
    print(f"wrote {arguments.target} ({provenance.written}) and {Path(arguments.target).with_suffix('.json')}")


if __name__ == "__main__":
    run(main)
