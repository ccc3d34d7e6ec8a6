"""Time against density: where sparse attention wins over dense, and how close it comes to what its density promises."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from visionsparse.errors import InputError
from visionsparse.visualization.figure import BLUE, GREEN, GREY, ORANGE, VERMILION, new_figure, save_figure

Record = dict[str, Any]
_PANEL = ("op", "tokens", "pass", "dtype", "threads")
_COLOURS = (BLUE, ORANGE, GREEN, VERMILION)
_STYLES = ("-", "--", ":", "-.")


def draw_densities(records: Sequence[Record], path: str | Path) -> Path:
    """Draws measurements of `visionsparse benchmark ops` and returns the picture's path.

    A panel a length, pass, dtype and number of threads, both axes logarithmic; a line a candidate (colour) and block
    size (style); the baseline, which has no density, as a level line.

    Args:
        records: its results; those with a `block` are drawn.
        path: where the picture goes; its suffix says the format.

    Raises:
        InputError: no record has a block and a density.
    """
    sparse = [record for record in records if "block" in record]
    if not sparse:
        raise InputError(f"{path}: nothing was measured at several densities: measure --op block_sparse_attention.")
    panels = list(dict.fromkeys(tuple(record[name] for name in _PANEL) for record in sparse))
    names = list(dict.fromkeys(record["candidate"] for record in sparse))
    blocks = list(dict.fromkeys(record["block"] for record in sparse))
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure = new_figure(max(6.5, 4.2 * columns), 3.6 * rows + 0.8)
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for panel, axis in zip(panels, axes, strict=False):
        mine = [record for record in records if tuple(record.get(name) for name in _PANEL) == panel]
        for record in mine:
            if "block" not in record and record["candidate"] == record["baseline"]:
                axis.axhline(record["median_ms"], color=GREY, label=record["candidate"])
        for name in names:
            for block in blocks:
                points = sorted(
                    (record["density"], record["median_ms"])
                    for record in mine
                    if (record["candidate"], record.get("block")) == (name, block)
                )
                if points:
                    axis.plot(
                        *zip(*points, strict=True),
                        color=_COLOURS[names.index(name) % len(_COLOURS)],
                        linestyle=_STYLES[blocks.index(block) % len(_STYLES)],
                        marker="o",
                        markersize=3,
                        label=f"{name}, blocks of {block}",
                    )
        op, tokens, passes, dtype, threads = panel
        axis.set(xscale="log", yscale="log", xlabel="density", ylabel="ms")
        axis.set_title(f"{op}\n{tokens} tokens, {passes}, {dtype}, threads: {threads}", fontsize=9)
        measured = _apart({round(record["density"], 3) for record in mine if "block" in record})
        axis.set_xticks(measured, [f"{density:.2g}" for density in measured])
        axis.minorticks_off()
        axis.grid(alpha=0.3, which="both")
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    lines = {label: line for axis in axes for line, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=2, fontsize=8)
    return save_figure(figure, path)


def _apart(densities: Iterable[float]) -> list[float]:
    """In order, without those whose labels would run into each other: blocks of two sizes round a density apart."""
    kept: list[float] = []
    for density in sorted(densities):
        if not kept or density > 1.2 * kept[-1]:
            kept.append(density)
    return kept
