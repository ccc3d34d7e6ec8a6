"""Models side by side: what they cost and, where it was published, how good they are. Ours and timm's alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from visionsparse.benchmark.memory import peak_memory
from visionsparse.benchmark.timing import interleaved
from visionsparse.errors import InputError, UnknownNameError, UserError, did_you_mean
from visionsparse.evaluation.cost import count_parameters, count_work
from visionsparse.zoo import create_model, variants

Row = dict[str, Any]


def compare(
    names: Sequence[str],
    *,
    image_sizes: Sequence[int] | None = None,
    batch_sizes: Sequence[int] = (1,),
    device: torch.device | None = None,
    seconds: float = 5.0,
) -> Iterator[list[Row]]:
    """Counts and measures models with random weights in evaluation mode, float32; one list of rows a setting.

    The models of a setting take turns, so that what disturbs the machine disturbs all alike.

    Args:
        names: models of the zoo or of timm.
        image_sizes: sides of square images; by default every model gets the size of its metafile.
        batch_sizes: images at once.
        device: where; the CPU by default.
        seconds: for the timing of one setting.

    Yields: rows of `model`, `parameters`, `image_size` [height, width], `batch_size`, `gmacs` (an image), `dense_gmacs`
        (with nothing skipped), `skipped` (0 to 1, the share of the dense work), `peak_mib` (weights, images and all
        that is alive at the peak of the pass), `images_per_second` (median) and `published` (a dict where there is a
        result for that size, else None). A model that refuses a size has `refused`, its reason, in place of what is
        measured.

    Raises:
        UnknownNameError: a name that neither the zoo nor timm has.
        InputError: sizes or batches below 1.
    """
    for name, values in (("image_sizes", image_sizes or ()), ("batch_sizes", batch_sizes)):
        if any(value < 1 for value in values):
            raise InputError(f"{name}={list(values)}: expected numbers of 1 or more.")
    device = device or torch.device("cpu")
    nets = {name: _create(name).eval().to(device) for name in names}
    sides: Sequence[int | None] = image_sizes or [None]
    for image_size in sides:
        for batch_size in batch_sizes:
            yield _measure(nets, image_size, batch_size, device, seconds)


def _create(name: str) -> nn.Module:
    if name in variants():
        return create_model(name)
    import timm

    if not timm.is_model(name):
        hint = did_you_mean(name, [*variants(), *timm.list_models()])
        raise UnknownNameError(f"{name!r} is a model of neither visionsparse nor timm.{hint}")
    return timm.create_model(name)


def _measure(
    nets: dict[str, nn.Module], image_size: int | None, batch_size: int, device: torch.device, seconds: float
) -> list[Row]:
    rows, calls = [], {}
    for name, net in nets.items():
        channels, *size = _input_size(name, net)
        size = [image_size, image_size] if image_size else size
        row = {"model": name, "parameters": count_parameters(net), "image_size": size, "batch_size": batch_size}
        rows.append(row)
        images = torch.randn(batch_size, channels, *size, generator=torch.Generator().manual_seed(0)).to(device)
        try:
            row |= _count(net, images)
        except (UserError, AssertionError) as error:  # timm refuses a size by an assertion
            row["refused"] = " ".join(str(error).split())
            continue
        calls[name] = _forward(net, images)
        held = sum(tensor.nbytes for tensor in (*net.parameters(), *net.buffers(), images))
        row["peak_mib"] = (held + peak_memory(calls[name], device)) / 2**20
        row["published"] = _published(name, size)
    timings = interleaved(calls, device, seconds=seconds) if calls else {}
    for row in rows:
        if row["model"] in timings:
            row["images_per_second"] = batch_size / timings[row["model"]].median
    return rows


def _published(name: str, size: Sequence[int]) -> dict[str, Any] | None:
    if name not in variants() or list(size) != variants()[name].facts["input_size"][1:]:
        return None
    return variants()[name].facts["published"]


def _input_size(name: str, net: Any) -> Sequence[int]:
    return variants()[name].facts["input_size"] if name in variants() else net.pretrained_cfg["input_size"]


def _count(net: nn.Module, images: Tensor) -> Row:
    work = count_work(net, images)
    gmacs, dense = (value / len(images) / 1e9 for value in work)
    return {"gmacs": gmacs, "dense_gmacs": dense, "skipped": 1 - gmacs / dense}


def _forward(net: nn.Module, images: Tensor) -> Callable[[], object]:
    def call() -> object:
        with torch.inference_mode():
            return net(images)

    return call
