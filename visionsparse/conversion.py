"""Checkpoint files from a published layout to ours and back, with a note of where the weights came from.

Ours is a safetensors file in the model's own names, and beside it a JSON file of the same stem (`Provenance`). The
published form is a torch file with the weights under the key whose accuracy was published. Tensors keep every bit.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from visionsparse._version import __version__
from visionsparse.checkpoint.layouts import IGNORED, Part, convert, few, publish, system_part, unwrap
from visionsparse.checkpoint.loading import load_content
from visionsparse.checkpoint.reading import SUFFIXES, read_checkpoint
from visionsparse.checkpoint.saving import save_checkpoint
from visionsparse.errors import CheckpointError, ConfigError
from visionsparse.files import write_text
from visionsparse.progress import ProgressBar
from visionsparse.zoo import create_model, variant, variants

OURS, PUBLISHED = "ours", "published"


@dataclasses.dataclass(frozen=True)
class Provenance:
    """Where a converted file came from.

    source: the file's name; sha256: of its bytes; layout: whose names it had, and which of its weights were taken;
    left_out: what it held besides; model, num_classes: what the weights fit; written: "ours" or the published layout.
    """

    source: str
    sha256: str
    layout: str
    left_out: tuple[str, ...]
    model: str
    num_classes: int | None
    written: str
    visionsparse: str
    date: str


def convert_checkpoint(
    source: str | Path, target: str | Path, *, model: str | None = None, to: str = OURS, force: bool = False
) -> Provenance:
    """Reads `source` in any known layout and writes `target`, and its note beside it.

    Args:
        source: published, ours, or one of our training files.
        target: .safetensors for ours, .pth or .pt for the published layout.
        model: whose weights these are; None to tell by the note beside `source`, or by the names and shapes.
        to: "ours" or "published".
        force: overwrite.

    Raises:
        CheckpointError: can't be read, fits no model or several, or not the one that is named.
        ConfigError: a target that exists, or of another ending.
    """
    source, target = Path(source), Path(target)
    note = target.with_suffix(".json")
    _check_target(source, target, note, to, force)
    with ProgressBar(4, "steps") as bar:
        provenance = _convert(source, target, model, to, bar)
    _write_note(provenance, note)
    return provenance


def _convert(source: Path, target: Path, model: str | None, to: str, bar: ProgressBar) -> Provenance:
    bar.update(0, f"reading {source.name}")
    content = read_checkpoint(source)
    bar.update(1, "finding its model")
    name = model or _noted_model(source) or guess_model(content, str(source))
    net = _net_for(name, content, str(source))
    load_content(net, content, str(source))  # refuses, with its reasons, what does not fit

    part = system_part(net)
    weights, which = unwrap(content, str(source), part)
    layout, state = convert(net, weights, str(source))
    if not _is_from(net, layout, state, weights):
        raise CheckpointError(
            f"{source}: fits {name}, but was published as another model, whose layout would be lost. "
            "Leave out --model to have it told by the weights."
        )
    bar.update(2, f"writing {target.name}")
    if to == PUBLISHED:
        published = publish(net, state)
        save_checkpoint({part.table.WEIGHTS_KEY: published}, target)  # type: ignore[union-attr]
    else:
        save_checkpoint(state, target)
    bar.update(3, f"hashing {source.name}")
    return Provenance(
        source=source.name,
        sha256=_sha256(source),
        layout=layout + which,
        left_out=_left_out(content, weights),
        model=name,
        num_classes=getattr(net, "num_classes", None) or None,
        written=OURS if to == OURS else part.table.LAYOUT,  # type: ignore[union-attr]
        visionsparse=__version__,
        date=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    )


def _check_target(source: Path, target: Path, note: Path, to: str, force: bool) -> None:
    if to not in (OURS, PUBLISHED):
        raise ConfigError(f"to={to!r}: expected {OURS!r} or {PUBLISHED!r}.")
    suffixes = (".safetensors",) if to == OURS else tuple(s for s in SUFFIXES if s in (".pth", ".pt"))
    if target.suffix not in suffixes:
        kind = "our layout is written as" if to == OURS else "the published layout is written as"
        raise ConfigError(f"{target}: {kind} {' or '.join(suffixes)}: name it {target.with_suffix(suffixes[0]).name}.")
    taken = [path for path in (target, note) if path.exists()]
    if target.resolve() == source.resolve():
        raise ConfigError(f"{target}: is the file to convert: name another target.")
    if taken and not force:
        raise ConfigError(f"{taken[0]}: exists already. Name another target, or overwrite it with --force.")


def _noted_model(source: Path) -> str | None:
    """The model that an earlier conversion has noted beside its file."""
    try:
        note = json.loads(source.with_suffix(".json").read_text())
    except (OSError, ValueError):
        return None
    name = note.get("model") if isinstance(note, dict) else None
    return name if source.suffix == ".safetensors" and name in variants() else None


def guess_model(content: Mapping[str, Any], source: str = "state dict") -> str:
    """The one model of the zoo whose names and shapes a checkpoint has, in any known layout.

    Raises:
        CheckpointError: no model has them, or several.
    """
    unwrap(content, source, Part("", nn.Module(), None))  # refuses what holds no weights at all
    fitting = []
    for name in variants():
        try:
            net = _net_for(name, content, source, device="meta")
            weights, _ = unwrap(content, source, system_part(net))
            layout, state = convert(net, weights, source)
        except CheckpointError:
            continue
        own = {key: tuple(value.shape) for key, value in net.state_dict().items()}
        if own == {key: tuple(value.shape) for key, value in state.items()} and _is_from(net, layout, state, weights):
            fitting.append(name)
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise CheckpointError(
            f"{source}: could be {' or '.join(fitting)}, which have the same names. Say --model NAME."
        )
    raise CheckpointError(
        f"{source}: has the names and shapes of no model of visionsparse (looked at {len(variants())}). "
        "Say --model NAME to hear what does not fit."
    )


def _is_from(net: nn.Module, layout: str, state: dict[str, Tensor], weights: Mapping[str, Tensor]) -> bool:
    """Whether a published file is of this net, and not of one whose published names merely become the same as ours."""
    table = system_part(net).table
    if table is None or layout != table.LAYOUT:
        return True
    published = {name: tensor.shape for name, tensor in publish(net, state).items()}
    inside = {name: tensor.shape for name, tensor in weights.items() if not name.startswith(IGNORED)}
    has_names = all(any(name.endswith(known) for known in published) for name in inside)  # prefixes may lead to them
    return has_names and sorted(published.values()) == sorted(inside.values())


def _net_for(name: str, content: Mapping[str, Any], source: str, device: str = "cpu") -> nn.Module:
    """The model of that name, with as many classes as the file's head has."""
    entry = variant(name)
    with torch.device("meta"):
        net: Any = create_model(name)
    overrides = {}
    head = net.get_classifier() if hasattr(net, "get_classifier") else None
    if isinstance(head, nn.Linear) and "num_classes" in entry.argument_names():
        weights, _ = unwrap(content, source, system_part(net))
        _, state = convert(net, weights, source)
        prefix = next(key for key, module in net.named_modules() if module is head)
        found = state.get(f"{prefix}.weight")
        if found is not None and found.ndim == 2 and found.shape[0] != head.out_features:
            overrides = {"num_classes": found.shape[0]}
    if device == "meta" and not overrides:
        return net
    with torch.device(device):
        return create_model(name, **overrides)


def _left_out(content: Mapping[str, Any], weights: Mapping[str, Tensor]) -> tuple[str, ...]:
    """What the file holds besides the weights: top-level entries, and the task model's pre-processing."""
    taken = next((key for key, value in content.items() if value is weights), None)
    beside = [str(key) for key, value in content.items() if key != taken and not isinstance(value, Tensor)]
    return (*beside, *(name for name in weights if name.startswith(IGNORED)))


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _write_note(provenance: Provenance, path: Path) -> None:
    try:
        write_text(path, json.dumps(dataclasses.asdict(provenance), indent=1) + "\n")
    except OSError as error:
        raise CheckpointError(f"{path}: can't be written: {error.strerror}. Choose another folder.") from error


def describe(provenance: Provenance) -> str:
    """One line: what was seen and what was left out."""
    left_out = few(provenance.left_out, shown=8) if provenance.left_out else "nothing"
    return f"{provenance.source}: {provenance.layout}; model {provenance.model}; left out: {left_out}"
