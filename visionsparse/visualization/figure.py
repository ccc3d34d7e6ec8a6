"""What every picture shares: colours that colour-blind eyes tell apart, a plain figure, saving.

Figures are made with matplotlib's objects, never with pyplot: no global state, no display, safe in threads and workers.
Colours: Okabe and Ito, "Color Universal Design", 2008.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from visionsparse.errors import InputError
from visionsparse.files import no_room, whole_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE = "#0072B2"
ORANGE = "#E69F00"
VERMILION = "#D55E00"
GREEN = "#009E73"
GREY = "#666666"
RUN_COLOURS = (BLUE, VERMILION, GREEN, ORANGE, "#CC79A7", "#56B4E9", "#000000")

_FORMATS = (".png", ".pdf", ".svg", ".jpg", ".jpeg", ".webp")


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of that size in inches, laid out so that labels never overlap."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=110, layout="constrained")


def check_format(path: Path) -> None:
    """Raises InputError where the suffix is no picture format."""
    if path.suffix.lower() not in _FORMATS:
        raise InputError(
            f"{path}: {path.suffix or 'no suffix'} is not a picture format. Use one of {' '.join(_FORMATS)}."
        )


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Writes the picture, making its folder; the suffix says the format.

    Raises:
        InputError: a suffix that is no picture format, or a place that can't be written.
    """
    path = Path(path)
    check_format(path)
    try:
        with whole_file(path) as file:
            figure.savefig(file, format=path.suffix[1:].lower())
    except OSError as error:
        message = no_room(error) or f"{path}: can't be written: {error.strerror or error}. Name another place."
        raise InputError(message) from error
    return path


def short(name: str, length: int) -> str:
    """A class's name for a caption: the first of ImageNet's synonyms, cut to `length` letters."""
    name = name.split(",")[0]
    return name if len(name) <= length else name[: length - 1] + "…"
