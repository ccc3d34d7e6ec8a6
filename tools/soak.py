"""Kill a small training with -9 again and again, and see that nothing is lost.

`soak kill` trains a small net on the embedded digits, kills it at random moments (at least a fifth of them inside a
save, which it slows down for that), starts it again with --resume, and compares the end with a run that was never
killed, bit for bit. The last line sums up; exit code 1 if a checkpoint was lost or torn, a temporary file was left
after the next start, or a bit differs.

Example, some minutes on one CPU core:
  visionsparse soak kill --kills 50
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from visionsparse.cli import Parser, run
from visionsparse.errors import ConfigError


def main(argv: Sequence[str] | None = None) -> None:
    """Parses the command line, soaks, prints a line a kill and the summary."""
    summary, _, rest = (__doc__ or "").partition("\n")
    parser = Parser(prog="visionsparse soak", description=summary, epilog=rest.strip())
    parser.add_argument("what", metavar="kill", choices=["kill"], help="what to do to the training")
    parser.add_argument("--kills", type=int, default=50, metavar="N", help="how many (50)")
    parser.add_argument("--work-dir", metavar="DIR", help="an empty folder to work in and leave (a temporary one)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the moments (0)")
    arguments = parser.parse_args(argv)
    if arguments.kills < 1:
        raise ConfigError(f"--kills {arguments.kills}: expected 1 or more.")
    folder = Path(arguments.work_dir) if arguments.work_dir else None
    if folder is not None and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"--work-dir {folder}: not an empty folder, which a soak needs to tell what is its own.")

    from visionsparse.engine.soak import soak

    start = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        tally = soak(arguments.kills, folder or Path(temporary), arguments.seed, say=_say)
    print(f"soak kill: {'ok' if tally.is_clean else 'FAILED'}: {tally}; {time.monotonic() - start:.0f} s", flush=True)
    if not tally.is_clean:
        sys.exit(1)


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    run(main)
