"""A net as a file that runs without visionsparse: an ONNX graph or a torch.export program, checked when written.

Images have one size, which is baked in (regions depend on it); the batch is free. The ops are exported on their
`reference` backend, which is made of torch's own operations: the others call operators of visionsparse and kernels,
which neither ONNX nor a process without visionsparse knows. The exported net computes the same; it does gather the keys
and values that the torch backend reads in place.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from visionsparse.checkpoint.reading import one_line
from visionsparse.errors import ConfigError, InputError, UserError
from visionsparse.files import whole_file
from visionsparse.ops import use_backend

TOLERANCE = 1e-3  # of an output's standard deviation

Outputs = list[Tensor]


def export_model(net: nn.Module, path: str | Path, format: str, image_size: Sequence[int]) -> float:
    """Writes `net` to `path` after comparing the file with the net itself on random images, two batch sizes.

    Args:
        net: takes normalised images (B, 3, height, width), gives a tensor or a list of them; it is put in eval mode.
        path: .onnx or .pt2.
        format: "onnx" or "torch-export".
        image_size: (height, width).

    Returns: the largest difference found, over the output's standard deviation.

    Raises:
        ConfigError: an unknown format, a wrong ending, a missing package.
        InputError: the net does not take the size, or can't be exported, or the file computes something else.
    """
    path = Path(path)
    if format not in FORMATS:
        raise ConfigError(f"format={format!r}: expected {' or '.join(map(repr, FORMATS))}.")
    suffix, packages, write, load = FORMATS[format]
    if path.suffix != suffix:
        raise ConfigError(f"{path}: a {format} file ends in {suffix}: name it {path.with_suffix(suffix).name}.")
    _require(packages, format)

    net = net.eval().cpu()
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randn(batch, 3, *image_size, generator=generator) for batch in (2, 3)]
    with torch.no_grad():
        expected = [_outputs(net(images)) for images in batches]
    content = _exported(net, batches[0], format, write)

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / path.name
        file.write_bytes(content)
        call = load(file)
        error = max(_difference(call(images), wanted) for images, wanted in zip(batches, expected, strict=True))
    if not error <= TOLERANCE:
        raise InputError(
            f"{path}: not written: the {format} file is off by {error:.2g} of the outputs' standard deviation "
            f"({TOLERANCE:g} allowed). Please report this with the model's name and the version of torch."
        )
    try:
        with whole_file(path) as out:
            out.write(content)
    except OSError as problem:
        raise ConfigError(f"{path}: can't be written: {problem.strerror}. Name another place.") from problem
    return error


def _exported(net: nn.Module, images: Tensor, format: str, write: Callable[..., bytes]) -> bytes:
    try:
        with use_backend("reference"), torch.no_grad(), _quiet():
            program = torch.export.export(net, (images,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
            return write(program)
    except UserError:
        raise
    except Exception as error:  # whatever torch's tracer or ONNX's has to say
        raise InputError(
            f"{type(net).__name__} can't be exported as {format}: {type(error).__name__}: {one_line(error)}."
        ) from error


def _write_program(program: Any) -> bytes:
    file = io.BytesIO()
    torch.export.save(program, file)
    return file.getvalue()


def _load_program(path: Path) -> Callable[[Tensor], Outputs]:
    module = torch.export.load(path).module()
    return lambda images: _outputs(module(images))


def _write_onnx(program: Any) -> bytes:
    onnx_program = torch.onnx.export(program, dynamo=True, optimize=True, verbose=False, external_data=False)
    with tempfile.TemporaryDirectory() as folder:
        onnx_program.save(f"{folder}/net.onnx", external_data=False)  # type: ignore[union-attr]
        return Path(folder, "net.onnx").read_bytes()


def _load_onnx(path: Path) -> Callable[[Tensor], Outputs]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: [torch.from_numpy(array) for array in session.run(None, {name: images.numpy()})]


FORMATS: dict[str, tuple[str, tuple[str, ...], Callable[..., bytes], Callable[[Path], Callable[[Tensor], Outputs]]]] = {
    "onnx": (".onnx", ("onnx", "onnxscript", "onnxruntime"), _write_onnx, _load_onnx),
    "torch-export": (".pt2", (), _write_program, _load_program),
}


def _outputs(found: Tensor | Sequence[Tensor]) -> Outputs:
    return [found] if isinstance(found, Tensor) else list(found)


def _difference(found: Outputs, expected: Outputs) -> float:
    return max(
        float(((one - other).abs().max() / other.std().clamp_min(1e-12)).detach())
        for one, other in zip(found, expected, strict=True)
    )


def _require(packages: Sequence[str], format: str) -> None:
    for package in packages:
        try:
            importlib.import_module(package)
        except ImportError:
            raise ConfigError(
                f"{package} is missing, which {format} files are written and checked with: "
                "pip install 'visionsparse[export]'"
            ) from None


@contextlib.contextmanager
def _quiet() -> Any:
    """The exporters warn of their own deprecations at length."""
    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.getLogger("torch.onnx").setLevel(level)
