"""Export a model with its weights as ONNX or as a torch.export program, checked against the model itself.

The file takes normalised float32 images of one size (batch, 3, height, width), any batch, and gives what the model
gives. It needs no visionsparse to run. Before it is written it is run on random images of two batch sizes and compared.

Examples:
  visionsparse export biformer_tiny --checkpoint biformer_tiny_in1k.pth --format onnx biformer_tiny.onnx
  visionsparse export biformer/biformer_nano_digits --checkpoint CKPT --format torch-export nano.pt2 --image-size 32 32
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from visionsparse.cli import Parser, run


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the tool; raises a UserError for what the user can mend."""
    summary, _, rest = (__doc__ or "").partition("\n")
    parser = Parser(prog="visionsparse export", description=summary, epilog=rest.strip())
    parser.add_argument("model", metavar="MODEL_OR_CONFIG", help="a model's name, or a config by name or path")
    parser.add_argument("out", metavar="OUT", help="the file to write: .onnx or .pt2")
    parser.add_argument("--checkpoint", metavar="FILE", help="the model's weights: path or URL (needed)")
    parser.add_argument("--format", choices=("onnx", "torch-export"), required=True, help="what to write")
    parser.add_argument(
        "--image-size", metavar="N", nargs=2, type=int, help="height and width (default: the model's own)"
    )
    arguments = parser.parse_args(argv)

    from visionsparse.apis import require_checkpoint
    from visionsparse.exporting import export_model

    require_checkpoint(arguments.model, arguments.checkpoint)
    net, size = _net(arguments.model, arguments.checkpoint)
    size = arguments.image_size or size
    error = export_model(net, arguments.out, arguments.format, size)
    print(f"wrote {arguments.out}: {arguments.format}, images of {size[0]} x {size[1]}, any batch")
    print(f"compared with the model on 2 and 3 random images: off by at most {error:.1e} of the outputs' deviation")


def _net(config_or_name: str, checkpoint: str) -> tuple[Any, list[int]]:
    """The plain net with its weights, and the input size that its metafile names."""
    from visionsparse.apis import init_model
    from visionsparse.checkpoint import load_checkpoint
    from visionsparse.inference import find
    from visionsparse.zoo import Variant, create_model

    found = find(config_or_name)
    if isinstance(found, Variant) and found.task != "classification":  # a backbone has no task model
        net = create_model(found.name)
        load_checkpoint(net, checkpoint)
        return net, found.facts["input_size"][1:]
    model: Any = init_model(config_or_name, checkpoint, "cpu")
    return model.backbone, _input_size(found)


def _input_size(found: Any) -> list[int]:
    from visionsparse.config import load_config
    from visionsparse.zoo import Variant, variant

    entry = found if isinstance(found, Variant) else variant(load_config(found).model.backbone.type)
    return entry.facts["input_size"][1:]


if __name__ == "__main__":
    run(main)
