"""Results of a long job as numbered Parquet files: shared out over processes, killed at any moment, gone on with.

The work is an ordered set in fixed batches; a part is the rows of some batches in a row. What is one batch and what is
one part depends on the set alone, not on the number of processes, so every part holds the same bits whoever computes
it. A part is there whole or not at all, and is never computed again; what a kill costs is one part a process.

`job.json` beside the parts says what they are of. Parts of another job are refused, never mixed in.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from visionsparse.errors import DataError, InputError, UserError
from visionsparse.files import TEMPORARY_SUFFIX, sweep, whole_file, write_text

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

T = TypeVar("T")

MAX_PARTS = 1024  # few files for a large set, while a kill costs little
MAX_ROWS = 16384  # of a part: bounds the memory of a process, and comes before MAX_PARTS
_JOB = "job.json"


class Parts:
    """The parts of one job in one folder, which all processes see.

    Args:
        folder: where they lie; made by `begin`.
        num_samples: of the ordered set.
        batch_size: samples of a batch; the last batch has the rest.

    Attributes:
        num_finished: parts that were there when the job began.
    """

    def __init__(self, folder: str | Path, num_samples: int, batch_size: int) -> None:
        self.folder = Path(folder)
        self.num_batches = -(-num_samples // batch_size)
        self.batches_a_part = max(1, min(-(-self.num_batches // MAX_PARTS), MAX_ROWS // batch_size))
        self.num_finished = 0

    def __len__(self) -> int:
        return -(-self.num_batches // self.batches_a_part)

    def batches(self, part: int) -> range:
        """The numbers of the batches of a part."""
        start = part * self.batches_a_part
        return range(start, min(start + self.batches_a_part, self.num_batches))

    def begin(self, job: Mapping[str, str]) -> list[int]:
        """The parts that this process is to compute. Every process calls it.

        Args:
            job: what the parts are of; a value per thing that must be the same for parts to belong together.

        Raises:
            InputError: the folder holds something else or can't be written.
            DataError: this process sees another job than process 0.
        """
        job = {**job, "batches": f"{self.num_batches} in parts of {self.batches_a_part}"}
        first_job, unfinished = of_process_0(lambda: (job, self._unfinished(job)))
        rank, world_size = _rank_and_world_size()
        if first_job != job:
            raise DataError(
                f"process {rank} sees another job than process 0 ({_differences(job, first_job)}): all processes need "
                "the same files, config and checkpoint."
            )
        self.num_finished = len(self) - len(unfinished)
        return unfinished[rank::world_size]

    def __str__(self) -> str:
        return f"{self.folder}: {self.num_finished} of {len(self)} parts are finished, going on behind them"

    def write(self, part: int, tables: Sequence[Mapping[str, Any]]) -> None:
        """Writes a part, whole or not at all: a table (column name to values) a batch, alike in types.

        Raises:
            InputError: can't be written.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.concat_tables([pa.table(dict(columns)) for columns in tables])
        try:
            with whole_file(self._path(part)) as file:
                pq.write_table(table, file)
        except OSError as error:
            raise InputError(
                f"{self._path(part)}: can't be written: {error.strerror}. Make room; the same command then goes on "
                "behind the parts that are finished."
            ) from error

    def wait(self) -> None:
        """Returns once every process has called it."""
        if _rank_and_world_size()[1] > 1:
            import torch.distributed as dist

            dist.barrier()

    def read(self) -> Iterator[pa.RecordBatch]:
        """All rows, in order, a part's worth at a time.

        Raises:
            DataError: a part is missing or broken; names the file.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        for part in range(len(self)):
            path = self._path(part)
            try:
                # opened by name and not listed: a network file system may show a new file late in its lists
                with pq.ParquetFile(path) as file:
                    yield from file.iter_batches(MAX_ROWS)
            except FileNotFoundError as error:
                raise DataError(
                    f"{path}: this part is missing. Is {self.folder} on a file system that all machines share? "
                    "The same command computes what is missing."
                ) from error
            except (OSError, pa.ArrowException) as error:
                reason = " ".join(str(error).split())
                raise DataError(f"{path}: broken ({reason}). Remove the file and start the command again.") from error

    def _path(self, part: int) -> Path:
        return self.folder / f"{part:06}.parquet"

    def _unfinished(self, job: dict[str, str]) -> list[int]:
        """The numbers of the parts that are not there, in a folder that is this job's."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            sweep(self.folder)
            names = set(os.listdir(self.folder))
            finished = {part for part in range(len(self)) if self._path(part).name in names}
            former = self._former_job(names)
            if former is not None and former != job and any(name.endswith(".parquet") for name in names):
                raise InputError(
                    f"{self.folder}: has finished parts of another job ({_differences(former, job)}). "
                    "Remove the folder, or write the results elsewhere."
                )
            if former != job:
                write_text(self.folder / _JOB, json.dumps(job, indent=1) + "\n")
        except OSError as error:
            raise InputError(f"{self.folder}: can't be written: {error.strerror}. Name another place.") from error
        return [part for part in range(len(self)) if part not in finished]

    def _former_job(self, names: set[str]) -> dict[str, str] | None:
        """What `job.json` says; None in an empty folder."""
        if _JOB not in names:
            foreign = [name for name in sorted(names) if not name.endswith(TEMPORARY_SUFFIX)]
            if foreign:
                raise InputError(
                    f"{self.folder}: is wanted for the parts of this job, but holds {foreign[0]} and no {_JOB}. "
                    "Move the folder away, or write the results elsewhere."
                )
            return None
        try:
            return dict(json.loads((self.folder / _JOB).read_bytes()))
        except (ValueError, TypeError) as error:
            raise InputError(f"{self.folder / _JOB}: can't be read ({error}). Remove the folder.") from error


def of_process_0(make: Callable[[], T]) -> T:
    """What `make` gives in process 0, in every process; where it raises a UserError, every process raises that."""
    rank, world_size = _rank_and_world_size()
    made: list[Any] = [None]
    if rank == 0:
        try:
            made = [make()]
        except UserError as error:
            made = [error]
    if world_size > 1:
        import torch.distributed as dist

        dist.broadcast_object_list(made, src=0)
    if isinstance(made[0], UserError):
        raise made[0]
    return made[0]


def parts_folder(results: str | Path) -> Path:
    """Where the parts of a results file lie until it is written: `results.json.parts` beside `results.json`."""
    return Path(f"{results}.parts")


def remove_parts(folder: Path) -> None:
    """Removes the folder, which is no longer found from the first moment on; nothing where there is none."""
    doomed = folder.with_name(f".{folder.name}.{os.getpid()}{TEMPORARY_SUFFIX}")
    with contextlib.suppress(FileNotFoundError):
        folder.rename(doomed)
        shutil.rmtree(doomed)


def digest(pieces: Iterable[bytes | str]) -> str:
    """A hash of the pieces, and of where one ends and the next begins."""
    total = hashlib.sha256()
    for piece in pieces:
        encoded = piece.encode() if isinstance(piece, str) else piece
        total.update(len(encoded).to_bytes(8, "little") + encoded)
    return total.hexdigest()[:32]


def weights_digest(state: Mapping[str, Tensor]) -> str:
    """A hash of a state dict's names, shapes, dtypes and values."""
    import torch

    def bits(tensor: Tensor) -> bytes:
        return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()

    return digest(
        digest([name, str(tensor.dtype), str(tuple(tensor.shape)), bits(tensor)]) for name, tensor in state.items()
    )


def _differences(one: Mapping[str, str], other: Mapping[str, str]) -> str:
    differing = [key for key in {**one, **other} if one.get(key) != other.get(key)]
    return f"{' and '.join(differing)} differ{'s' if len(differing) == 1 else ''}"


def _rank_and_world_size() -> tuple[int, int]:
    from mmengine.dist import get_dist_info

    return get_dist_info()
