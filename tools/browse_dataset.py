"""Draw a batch of a config's data as the model gets it: augmented, mixed, with its targets.

Each sample is shown as its file holds it and, of the training data, as three epochs augment it; the first of them is
the very batch that training starts with. The same config and seed give the same picture.

Examples:
  visionsparse browse-dataset biformer/biformer_nano_digits --out batch.png
  visionsparse browse-dataset biformer/biformer_tiny_in1k --split val --num 4 --cfg-options val_dataloader.batch_size=4
"""

from __future__ import annotations

from collections.abc import Sequence

from visionsparse.cli import Parser, key_value_pairs, run


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the tool; raises a UserError for what the user can mend."""
    summary, _, rest = (__doc__ or "").partition("\n")
    parser = Parser(prog="visionsparse browse-dataset", description=summary, epilog=rest.strip())
    parser.add_argument("config", metavar="CONFIG", help="a config by name or path")
    parser.add_argument("--split", choices=("train", "val", "test"), default="train", help="default: train")
    parser.add_argument(
        "--num", metavar="N", type=int, help="samples, at most the batch size (default: 8, or all of a smaller batch)"
    )
    parser.add_argument("--out", metavar="FILE", default="batch.png", help="the picture (default: batch.png)")
    parser.add_argument(
        "--cfg-options", metavar="KEY=VALUE", nargs="+", default=[], help="change values of the config, by dotted key"
    )
    arguments = parser.parse_args(argv)

    from visionsparse.pictures import draw_batch

    options = key_value_pairs(arguments.cfg_options)
    picture = draw_batch(arguments.config, arguments.out, split=arguments.split, num=arguments.num, options=options)
    print(f"batch: {picture}")


if __name__ == "__main__":
    run(main)
