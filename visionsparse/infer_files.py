"""Inference over any number of files: shared out over processes, gone on with after a kill, never all in memory.

parts = infer_files(model, paths, parts_folder("answers.json"))
for answer in answers(model, paths, parts): ...
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visionsparse.parts import Parts, digest, weights_digest
from visionsparse.progress import ProgressBar

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

BATCH_SIZE = 32


def infer_files(model: Any, paths: Sequence[str], folder: str | Path, *, skip_corrupt: bool = False) -> Parts:
    """What the model says of image files, as parts; one process of it under torchrun. `answers` reads them.

    The batches are the same whatever the number of processes, and so are the answers, to the last bit.

    Args:
        model: of `init_model`.
        paths: the files, the same in every process.
        folder: where finished parts lie. Called again, it goes on behind them.
        skip_corrupt: a file that can't be read as an image gets an error for an answer, instead of raising it.

    Raises:
        DataError: a file that can't be read as an image; names it.
        InputError: `folder` has parts of another job, or can't be written.
    """
    from mmengine.dist import get_dist_info

    rank, world_size = get_dist_info()
    parts = Parts(folder, len(paths), BATCH_SIZE)
    job = {
        "model": digest([getattr(model, "settings", ""), repr(model.class_names)]),
        "checkpoint": weights_digest(model.state_dict()),
        "files": digest(map(os.fsencode, paths)),
        "skip_corrupt": str(skip_corrupt),
        "device": next(model.parameters()).device.type,
    }
    todo = parts.begin(job)
    if parts.num_finished and rank == 0:
        print(parts)
    step, total = BATCH_SIZE * world_size, BATCH_SIZE * world_size * sum(len(parts.batches(part)) for part in todo)
    done = 0
    with ProgressBar(total, "images", is_shown=rank == 0 and total > step) as bar:
        for part in todo:
            tables = []
            for batch in parts.batches(part):
                few = [paths[index] for index in range(batch * BATCH_SIZE, min((batch + 1) * BATCH_SIZE, len(paths)))]
                tables.append(_rows(model, few, skip_corrupt))
                done += step
                bar.update(done, f"images {min(done, total)}/{total}")
            parts.write(part, tables)
    parts.wait()
    return parts


def answers(model: Any, paths: Sequence[str], parts: Parts) -> Iterator[dict[str, Any]]:
    """The dict that `infer` gives for every file, in order; `path` and `error` for one that was skipped."""
    from visionsparse.apis import answer

    index = 0
    for rows in parts.read():
        columns = [rows[name].to_pylist() for name in ("labels", "scores", "error")]
        for labels, scores, error in zip(*columns, strict=True):
            path = paths[index]
            yield {"path": path, "error": error} if error else answer(model, path, labels, scores)
            index += 1


def _rows(model: Any, paths: Sequence[str], skip_corrupt: bool) -> dict[str, pa.Array]:
    """Of a batch: the best labels and their scores, or the error."""
    import pyarrow as pa

    from visionsparse.apis import best_classes, prepared, stacked
    from visionsparse.datasets.image import CorruptImage

    images: list[Tensor] = []
    errors: list[str | None] = []
    for index, path in enumerate(paths):
        try:
            images.append(prepared(model, path, index))
            errors.append(None)
        except CorruptImage as error:
            if not skip_corrupt:
                raise
            errors.append(printable(str(error)))
    best = iter(best_classes(model, stacked(images)) if images else [])
    both = [([], []) if error else next(best) for error in errors]
    return {
        "labels": pa.array([labels for labels, _ in both], pa.list_(pa.int32())),
        "scores": pa.array([scores for _, scores in both], pa.list_(pa.float64())),
        "error": pa.array(errors, pa.string()),
    }


def printable(text: str) -> str:
    """`text` with the bytes of a file name that are no UTF-8 written as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()
