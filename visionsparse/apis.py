"""The calls a user makes beyond the model itself: `train`, `test`, `init_model`, `infer`.

model = init_model("biformer_tiny", "biformer_tiny_in1k.pth")
infer(model, ["cat.jpg", "dog.png"])[0]["class_name"]
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visionsparse.errors import CheckpointError, ConfigError, DataError, InputError

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from torch import Tensor, nn

    from visionsparse.engine.runner import test, train

__all__ = ["draw_inference", "infer", "init_model", "test", "train"]

_TOP = 5


def __getattr__(name: str) -> Any:
    if name in ("train", "test"):
        from visionsparse.engine import runner

        return getattr(runner, name)
    raise AttributeError(f"module 'visionsparse.apis' has no attribute {name!r}")


def init_model(
    config_or_name: str | Path, checkpoint: str | Path | None = None, device: str | torch.device | None = None
) -> nn.Module:
    """A task model in eval mode, ready for `infer`.

    It carries `pipeline` (transforms of a PIL image), `class_names` (one per class) and `classes` (the class folders'
    names that it was trained on, None where the checkpoint does not say).

    Args:
        config_or_name: a config (path or name), or a classification model of the zoo; this one then gets the
            evaluation protocol of its metafile (input size, crop, interpolation, mean and std).
        checkpoint: path or URL of its weights; None leaves them random.
        device: "cpu" or "cuda"; None takes a GPU where there is one.

    Raises:
        UnknownNameError: neither a config nor a model; names the near misses.
        ConfigError: the config can't be used, or the model is no classifier.
        CheckpointError: the weights can't be read or don't fit.
        InputError: the device is not there.
    """
    from visionsparse.checkpoint import read_checkpoint
    from visionsparse.checkpoint.loading import load_content
    from visionsparse.inference import class_names_of, classifier, find
    from visionsparse.zoo import Variant

    found = find(config_or_name)
    chosen = _device(device)
    model, pipeline = classifier(found)
    content = {}
    if checkpoint is not None:
        content = read_checkpoint(checkpoint)
        try:
            load_content(model, content, str(checkpoint))
        except CheckpointError as error:
            hint = " A model that you trained goes by its config." if isinstance(found, Variant) else ""
            raise CheckpointError(f"{error}{hint}") from error
    model.pipeline = pipeline
    model.classes, model.class_names = class_names_of(content, model.num_classes)
    return model.to(chosen).eval()


def infer(
    model_or_name: nn.Module | str | Path,
    inputs: Any,
    *,
    checkpoint: str | Path | None = None,
    device: str | torch.device | None = None,
    batch_size: int = 32,
) -> list[dict[str, Any]]:
    """The classes of images.

    Args:
        model_or_name: a model of `init_model`, or what `init_model` takes; a name needs `checkpoint`.
        inputs: one image or a list: a path, a PIL image, a uint8 array (height, width, 3), or a tensor (3, height,
            width), float in [0, 1] or uint8.
        checkpoint: the weights, where a name is given.
        device: as in `init_model`; None leaves a model where it is.
        batch_size: images that the net sees at once.

    Returns: one dict per input: `path` (None for an image in memory), `label`, `class_name`, `score` (softmax, 0 to 1)
        and `top5`, the best [class_name, score] pairs (fewer where there are fewer classes).

    Raises:
        InputError: a name without a checkpoint, an image in memory that is none, a device that is not there.
        DataError: a file is missing, corrupt or no image; names it.
    """
    if batch_size < 1:
        raise InputError(f"batch_size={batch_size}: expected at least 1.")
    model = ready_model(model_or_name, checkpoint, device)
    many = list(inputs) if isinstance(inputs, list | tuple) else [inputs]
    results: list[dict[str, Any]] = []
    for batch in _batches(model, many, batch_size):
        for labels, scores in best_classes(model, batch):
            results.append(answer(model, many[len(results)], labels, scores))
    return results


def draw_inference(model: Any, inputs: Sequence[Any], results: Sequence[dict[str, Any]], path: str | Path) -> Path:
    """Draws images, what `infer` said of them, and the regions that one query point was routed to; returns `path`.

    The true class is written where the image lies in a folder named like one of the model's classes.
    """
    import torch

    from visionsparse.visualization.routes import Caption, draw_predictions, routed_regions

    (batch,) = _batches(model, list(inputs), len(inputs))
    with torch.no_grad():
        blocks = routed_regions(model.backbone, _normalised(model, batch))
    captions = [Caption(result["class_name"], result["score"], _true_name(model, result["path"])) for result in results]
    return draw_predictions(batch.permute(0, 2, 3, 1).numpy(), captions, blocks, path)


def require_checkpoint(config_or_name: str | Path, checkpoint: str | Path | None) -> None:
    """Refuses a name without weights (and one that is neither a config nor a model): a random net has no answer."""
    from visionsparse.inference import find

    find(config_or_name)
    if checkpoint is None:
        raise InputError(
            f"{config_or_name}: no checkpoint given, and a net with random weights has no answer. "
            "Pass its weights: --checkpoint FILE, or checkpoint=FILE in Python."
        )


def ready_model(model_or_name: Any, checkpoint: Any, device: Any) -> Any:
    """A model of `init_model`: the given one, or the one of that name with that checkpoint."""
    import torch

    if isinstance(model_or_name, str | Path):
        require_checkpoint(model_or_name, checkpoint)
        return init_model(model_or_name, checkpoint, device)
    if not isinstance(model_or_name, torch.nn.Module) or not hasattr(model_or_name, "pipeline"):
        raise InputError(
            f"{type(model_or_name).__name__}: expected a model of init_model(name, checkpoint), or a name: "
            "a plain net does not say how its images are prepared."
        )
    if checkpoint is not None:
        raise InputError(
            "checkpoint goes with a name; to change the weights of a model use load_checkpoint(model, ...)."
        )
    return model_or_name if device is None else model_or_name.to(_device(device))


def _batches(model: Any, inputs: Sequence[Any], batch_size: int) -> Iterator[Tensor]:
    """uint8 (B, 3, height, width) batches of prepared images; an image is read when its batch is due."""
    for start in range(0, len(inputs), batch_size):
        few = enumerate(inputs[start : start + batch_size], start)
        yield stacked([prepared(model, source, index) for index, source in few])


def prepared(model: Any, source: Any, index: int) -> Tensor:
    """uint8 (3, height, width) of one of `infer`'s inputs, as the model wants it; `index` is for the error message.

    Raises:
        InputError, DataError: as `infer`.
    """
    from visionsparse.datasets.transforms import to_tensor

    image = _read(source, index)
    for transform in model.pipeline:
        image = transform(image)
    return to_tensor(image)


def stacked(images: Sequence[Tensor]) -> Tensor:
    """A batch of prepared images.

    Raises:
        InputError: they differ in size.
    """
    import torch

    sizes = sorted({tuple(image.shape[1:]) for image in images})
    if len(sizes) > 1:
        raise InputError(
            f"images of {sizes[0]} and {sizes[-1]} pixels in one batch: the config's test pipeline fixes no size. "
            'Add dict(type="Resize", size=...) and dict(type="CenterCrop", size=...) to it.'
        )
    return torch.stack(list(images))


def read_input(source: Any) -> Image.Image:
    """The RGB image that one of `infer`'s inputs means."""
    from visionsparse.datasets.image import read_image, to_rgb

    return read_image(source) if isinstance(source, str | os.PathLike) else to_rgb(source)


def _read(source: Any, index: int) -> Image.Image:
    if isinstance(source, str | os.PathLike):
        return read_input(source)
    try:
        return read_input(source)
    except (InputError, DataError) as error:
        raise type(error)(f"inputs[{index}]: {error}") from error


def _normalised(model: Any, batch: Tensor) -> Tensor:
    return model.data_preprocessor({"inputs": batch})["inputs"]


def best_classes(model: Any, batch: Tensor) -> list[tuple[list[int], list[float]]]:
    """(labels, softmax scores) of the best classes of every image, the best first.

    Raises:
        CheckpointError: scores that are not finite.
    """
    import torch

    with torch.no_grad():
        predictions = model(_normalised(model, batch), mode="predict")
    best = []
    for prediction in predictions:
        scores = prediction["scores"]
        if not bool(torch.isfinite(scores).all()):
            raise CheckpointError("the scores are not finite numbers: the weights are broken. Take another checkpoint.")
        values, labels = scores.topk(min(_TOP, len(scores)))
        best.append((labels.tolist(), values.tolist()))
    return best


def answer(model: Any, source: Any, labels: Sequence[int], scores: Sequence[float]) -> dict[str, Any]:
    """What `infer` gives for an input with these best classes."""
    best = [[model.class_names[label], score] for label, score in zip(labels, scores, strict=True)]
    return {
        "path": os.fspath(source) if isinstance(source, str | os.PathLike) else None,
        "label": labels[0],
        "class_name": best[0][0],
        "score": best[0][1],
        "top5": best,
    }


def _true_name(model: Any, path: str | None) -> str | None:
    folder = Path(path).resolve().parent.name if path else None
    return model.class_names[model.classes.index(folder)] if model.classes and folder in model.classes else None


def _device(device: str | torch.device | None) -> torch.device:
    from visionsparse.engine.device import choose_device

    try:
        return choose_device(None if device is None else str(device))
    except ConfigError as error:
        raise InputError(str(error)) from error
