"""Say what is in images: a file, a folder or a pattern in; a table, JSON and pictures out.

A published model goes by its name, a model that you trained by its config. --out writes one picture an image (what the
net says, and the regions that one query point was routed to) and, for several images, a few of them on one page.

Examples:
  visionsparse infer biformer_tiny cat.jpg --checkpoint biformer_tiny_in1k.pth
  visionsparse infer biformer/biformer_nano_digits 'data/digits/val/*/179?.png' --checkpoint CKPT --out pictures

Many images are shared out over processes by torchrun --nproc-per-node N -m visionsparse.tools.infer ...
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from visionsparse.cli import Parser, run
from visionsparse.errors import DataError, InputError
from visionsparse.files import write_text

_BATCH = 32
_PAGE = 6  # images on the page that shows a few
_PAGE_NAME = "predictions"


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the tool; raises a UserError for what the user can mend."""
    summary, _, rest = (__doc__ or "").partition("\n")
    parser = Parser(prog="visionsparse infer", description=summary, epilog=rest.strip())
    parser.add_argument("model", metavar="MODEL_OR_CONFIG", help="a model's name, or a config by name or path")
    parser.add_argument(
        "inputs", metavar="INPUT", nargs="+", help="image file, folder (with its sub-folders) or quoted glob pattern"
    )
    parser.add_argument("--checkpoint", metavar="FILE", help="the model's weights: path or URL (needed)")
    parser.add_argument("--out", metavar="DIR", help="write pictures of the predictions into this folder")
    parser.add_argument("--json", metavar="FILE", help="write path, label, class_name, score and top5 of every image")
    parser.add_argument("--device", metavar="D", help="cpu, cuda or cuda:N (default: a GPU where there is one)")
    arguments = parser.parse_args(argv)

    from mmengine.dist import get_rank

    from visionsparse import apis
    from visionsparse.engine.device import choose_device, process_group

    apis.require_checkpoint(arguments.model, arguments.checkpoint)
    files = find_files(arguments.inputs)
    for folder in (arguments.out, arguments.json and Path(arguments.json).parent):
        if folder:
            _make_folder(Path(folder))
    model = apis.init_model(arguments.model, arguments.checkpoint, arguments.device)

    with process_group(choose_device(arguments.device)):
        results = _infer(model, list(files))
        if get_rank() > 0:
            return
    _print_table(results)
    if arguments.json:
        _write_json(results, Path(arguments.json))
    if arguments.out:
        _draw(model, files, results, Path(arguments.out))


def _infer(model: Any, paths: Sequence[str]) -> list[dict[str, Any]]:
    """The answers of all images, in order; under torchrun each process takes every so manieth batch.

    The batches are the same whatever the number of processes, and so are the answers, to the last bit.
    """
    from mmengine.dist import all_gather_object, get_rank, get_world_size

    from visionsparse.apis import infer

    starts = range(get_rank() * _BATCH, len(paths), get_world_size() * _BATCH)
    share = {
        start: infer(model, paths[start : start + _BATCH], batch_size=_BATCH)
        for start in _with_progress("images", starts, paths)
    }
    batches = {start: batch for share in all_gather_object(share) for start, batch in share.items()}
    return [answer for start in sorted(batches) for answer in batches[start]]


def find_files(words: Sequence[str]) -> dict[str, str]:
    """The files that `words` (files, folders, patterns) mean, in order, each with the name of its picture.

    A name is the path below the word's folder, without its ending, and no two are the same.

    Raises:
        DataError: a word that means no file; names it.
    """
    files: dict[str, str] = {}
    taken = {_PAGE_NAME}
    for word in words:
        for path, name in _files_of(word):
            if str(path) in files:
                continue
            unique, number = name, 2
            while unique in taken:
                unique, number = f"{name}-{number}", number + 1
            taken.add(unique)
            files[str(path)] = unique
    return files


def _files_of(word: str) -> list[tuple[Path, str]]:
    import glob

    if Path(word).is_dir():
        found = _images_below(Path(word))
        if not found:
            raise DataError(f"{word}: no image in this folder (looked for {' '.join(_endings())}).")
        return found
    matches = [word] if Path(word).is_file() else sorted(glob.glob(word, recursive=True))
    found = []
    for path in map(Path, matches):
        found += _images_below(path) if path.is_dir() else [(path, path.stem)]
    if not found:
        kind = "no image matches this pattern" if glob.has_magic(word) else "no such file or folder"
        raise DataError(f"{word}: {kind}. Give an image file, a folder or a quoted pattern such as 'val/*.png'.")
    return found


def _images_below(folder: Path) -> list[tuple[Path, str]]:
    """Image files in text order, none hidden or in a hidden folder; each with its name below `folder`."""
    endings = _endings()
    below = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.suffix.lower() in endings)
    return [
        (folder / path, str(path.with_suffix("")))
        for path in below
        if not any(part.startswith(".") for part in path.parts) and not (folder / path).is_dir()
    ]


def _endings() -> list[str]:
    from PIL import Image

    from visionsparse.datasets.image import FORMATS

    return sorted(ending for ending, name in Image.registered_extensions().items() if name in FORMATS)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: can't make this folder: {error.strerror}. Name another place.") from error


def _with_progress(unit: str, steps: range, things: Sequence[Any]) -> Iterator[int]:
    """`steps` with a bar, an estimate of the time left and the speed, where someone looks and has to wait."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    speed_column = TextColumn("{task.fields[speed]}")
    columns = (TextColumn(unit), BarColumn(), MofNCompleteColumn(), speed_column, TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal or len(steps) < 2) as bar:
        task = bar.add_task(unit, total=len(things), speed="")
        for step in steps:
            yield step
            bar.update(task, completed=min(step + steps.step, len(things)))
            speed = bar.tasks[task].speed
            bar.update(task, speed=f"{speed:.1f}/s" if speed else "")


def _write_json(results: Sequence[dict[str, Any]], path: Path) -> None:
    try:
        write_text(path, json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    except OSError as error:
        raise InputError(f"{path}: can't be written: {error.strerror}. Name another place.") from error
    print(f"json: {path}")


def _print_table(results: Sequence[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if not console.is_terminal:
        console = Console(width=10_000)  # a file or a pipe has no width: one image a line
    table = Table("path", "class", "score", "top 5", box=None, pad_edge=False)
    for result in results:
        best = " | ".join(f"{name.split(',')[0]} {100 * score:.1f}" for name, score in result["top5"])
        cells = (str(result["path"]), result["class_name"], f"{100 * result['score']:.2f} %", best)
        table.add_row(*(Text(cell, overflow="fold") for cell in cells))
    console.print(table)


def _draw(model: Any, files: dict[str, str], results: Sequence[dict[str, Any]], folder: Path) -> None:
    from visionsparse.apis import draw_inference

    if len(results) > 1:
        number = min(_PAGE, len(results))
        few = [results[index * (len(results) - 1) // (number - 1)] for index in range(number)]  # spread over all
        page = draw_inference(model, [result["path"] for result in few], few, folder / f"{_PAGE_NAME}.png")
        print(f"a few on one page: {page}")
    for index in _with_progress("pictures", range(len(results)), results):
        path = results[index]["path"]
        draw_inference(model, [path], [results[index]], folder / f"{files[path]}.png")
    print(f"pictures of one image each: {len(results)} in {folder}")


if __name__ == "__main__":
    run(main)
