"""Say what is in images: a file, a folder or a pattern in; a table, JSON and pictures out.

A published model goes by its name, a model that you trained by its config. --out writes one picture an image (what the
net says, and the regions that one query point was routed to) and, for several images, a few of them on one page.

Examples:
  visionsparse infer biformer_tiny cat.jpg --checkpoint biformer_tiny_in1k.pth
  visionsparse infer biformer/biformer_nano_digits 'data/digits/val/*/179?.png' --checkpoint CKPT --out pictures

Many images are shared out over processes by torchrun --nproc-per-node N -m visionsparse.tools.infer ...
Until the file of --json is written, what is finished lies beside it: after Ctrl-C or a crash the same command goes on.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visionsparse.cli import Parser, run
from visionsparse.errors import InputError
from visionsparse.files import whole_file

if TYPE_CHECKING:
    from visionsparse.image_files import ImageFiles
    from visionsparse.parts import Parts

_LINES = 256  # of the table, laid out together
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
    parser.add_argument(
        "--skip-corrupt", action="store_true", help="go on behind a file that is no image: its answer is the error"
    )
    parser.add_argument("--device", metavar="D", help="cpu, cuda or cuda:N (default: a GPU where there is one)")
    arguments = parser.parse_args(argv)

    from mmengine.dist import get_rank

    from visionsparse import apis
    from visionsparse.engine.device import choose_device, process_group
    from visionsparse.image_files import find_files
    from visionsparse.infer_files import answers, infer_files
    from visionsparse.parts import of_process_0, parts_folder, remove_parts

    apis.require_checkpoint(arguments.model, arguments.checkpoint)
    files = find_files(arguments.inputs)
    for folder in (arguments.out, arguments.json and Path(arguments.json).parent):
        if folder:
            _make_folder(Path(folder))
    if arguments.json and Path(arguments.json).is_dir():
        raise InputError(f"{arguments.json}: can't be written: Is a directory. Name a file.")
    model = apis.init_model(arguments.model, arguments.checkpoint, arguments.device)

    with contextlib.ExitStack() as stack:
        with process_group(choose_device(arguments.device)):
            if arguments.json:
                folder = parts_folder(arguments.json)
            else:
                temporary = functools.partial(tempfile.TemporaryDirectory, prefix="visionsparse-")
                folder = Path(of_process_0(lambda: stack.enter_context(temporary())))
            parts = infer_files(model, files, folder, skip_corrupt=arguments.skip_corrupt)
            is_main = get_rank() == 0
        if not is_main:
            return
        _print_table(answers(model, files, parts))
        if arguments.json:
            _write_json(answers(model, files, parts), Path(arguments.json))
        if arguments.out:
            _draw(model, files, parts, Path(arguments.out))
        if arguments.json:
            remove_parts(folder)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: can't make this folder: {error.strerror}. Name another place.") from error


def _print_table(answers: Iterable[dict[str, Any]]) -> None:
    """Some lines at a time, so that a million need no memory."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from visionsparse.infer_files import printable

    console = Console()
    if not console.is_terminal:
        console = Console(width=10_000)  # a file or a pipe has no width: one image a line
    is_first, num_skipped = True, 0
    for few in _chunks(answers, _LINES):
        table = Table("path", "class", "score", "top 5", box=None, pad_edge=False, show_header=is_first)
        is_first = False
        for answer in few:
            if "error" in answer:
                num_skipped += 1
                cells = [answer["path"], "skipped", "", answer["error"]]
            else:
                best = " | ".join(f"{name.split(',')[0]} {100 * score:.1f}" for name, score in answer["top5"])
                cells = [answer["path"], answer["class_name"], f"{100 * answer['score']:.2f} %", best]
            table.add_row(*(Text(printable(cell), overflow="fold") for cell in cells))
        console.print(table)
    if num_skipped:
        print(f"skipped {num_skipped} files that can't be read as images")


def _chunks(things: Iterable[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(things)
    while few := list(itertools.islice(iterator, size)):
        yield few


def _write_json(answers: Iterable[dict[str, Any]], path: Path) -> None:
    """A list with an answer a line, written as the answers come."""
    try:
        with whole_file(path) as file:
            file.write(b"[")
            for index, answer in enumerate(answers):
                line = json.dumps(answer, ensure_ascii=False)
                # a lone surrogate (a byte of a file name that is no UTF-8) becomes \udcXX, JSON's own escape
                file.write((",\n" if index else "\n").encode() + line.encode("utf-8", "backslashreplace"))
            file.write(b"\n]\n")
    except OSError as error:
        raise InputError(f"{path}: can't be written: {error.strerror}. Name another place.") from error
    print(f"json: {path}")


def _draw(model: Any, files: ImageFiles, parts: Parts, folder: Path) -> None:
    from visionsparse.apis import draw_inference
    from visionsparse.infer_files import answers
    from visionsparse.progress import ProgressBar

    number = min(_PAGE, len(files))
    chosen = {index * (len(files) - 1) // max(number - 1, 1) for index in range(number)}  # spread over all
    page, num_drawn = [], 0
    with ProgressBar(len(files), "pictures", is_shown=len(files) > 1) as bar:
        both = zip(answers(model, files, parts), files.picture_names(taken=[_PAGE_NAME]), strict=True)
        for index, (answer, name) in enumerate(both):
            if "error" not in answer:
                draw_inference(model, [answer["path"]], [answer], folder / f"{name}.png")
                num_drawn += 1
                page += [answer] if index in chosen else []
            bar.update(index + 1, f"pictures {index + 1}/{len(files)}")
    print(f"pictures of one image each: {num_drawn} in {folder}")
    if len(page) > 1:
        shown = draw_inference(model, [answer["path"] for answer in page], page, folder / f"{_PAGE_NAME}.png")
        print(f"a few on one page: {shown}")


if __name__ == "__main__":
    run(main)
