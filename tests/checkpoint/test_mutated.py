"""Whole files with something changed at random (the same at every run): refused in one line, or loaded."""

from __future__ import annotations

import io
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import safetensors.torch

from tests.checkpoint.hostile.build import beside, legacy, saved, training_file, whole_state, zipped
from tests.checkpoint.judged import judge_each
from tests.fuzz.checkpoint import BIAS, WEIGHT, digest

ODD_NUMBERS = [struct.pack("<q", value) for value in (-1, 0, 2**31 - 1, 2**31, 2**62, -(2**63), 255, 65536)]


def cut(content: bytes, draw: random.Random) -> bytes:
    return content[: draw.randrange(len(content))]


def flip_bits(content: bytes, draw: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(draw.choice([1, 1, 2, 8])):
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def change_range(content: bytes, draw: random.Random) -> bytes:
    """Zeroes, repeats, removes or replaces a range, or puts an odd number there."""
    start = draw.randrange(len(content))
    end = min(len(content), start + draw.choice([1, 2, 4, 8, 30, 200]))
    other = draw.randrange(len(content))
    piece = content[start:end]
    between = draw.choice(
        [bytes(len(piece)), piece * 2, piece * 50, b"", content[other : other + len(piece)], draw.choice(ODD_NUMBERS)]
    )
    return content[:start] + between + content[end:]


def splice(content: bytes, draw: random.Random) -> bytes:
    """The start of the file and the end of it, which overlap or leave something out."""
    return content[: draw.randrange(len(content))] + content[draw.randrange(len(content)) :]


def resealed(change: Callable[[bytes, random.Random], bytes]) -> Callable[[bytes, random.Random], bytes]:
    """Changes an entry of a zip, mostly its pickle, and gives it a true checksum: else that alone would refuse it."""

    def reseal(content: bytes, draw: random.Random) -> bytes:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
        name = draw.choice(["data.pkl"] * 8 + sorted(entries))
        entries[name] = change(entries[name], draw)
        return zipped(entries.pop("data.pkl"), entries)

    return reseal


CHANGES = [cut, flip_bits, flip_bits, change_range, change_range, change_range, splice]
SOURCES: dict[str, tuple[bytes, bool]] = {
    "zip": (saved({"model": whole_state(), "epoch": 3}), False),
    "zip, resealed": (zipped(beside()), True),
    "training zip, resealed": (saved(training_file()), True),
    "legacy": (legacy(), False),
    "safetensors": (safetensors.torch.save(whole_state(), {"format": "pt"}), False),
}


def mutants(source: str, count: int) -> dict[str, bytes]:
    content, is_resealed = SOURCES[source]
    made = {}
    for seed in range(count):
        draw = random.Random(f"{source} {seed}")
        change = draw.choice(CHANGES)
        made[f"{source}, {change.__name__} {seed}"] = (resealed(change) if is_resealed else change)(content, draw)
    return made


def test_2000_changed_files_are_refused_in_one_line_or_load(tmp_path: Path) -> None:
    contents = {name: content for source in SOURCES for name, content in mutants(source, 400).items()}
    verdicts = judge_each(contents, tmp_path)

    outcomes = {name: verdict["outcome"] for name, verdict in verdicts.items()}
    assert not {name: said for name, said in outcomes.items() if not said.startswith(("loaded", str(tmp_path)))}
    loaded = {name: verdicts[name]["weights"] for name, said in outcomes.items() if said == "loaded"}
    with_checksums = {weights for name, weights in loaded.items() if name.startswith("zip, ") and "sealed" not in name}
    assert with_checksums <= {digest(WEIGHT, BIAS)}
    assert all(any(name.startswith(source) for name in loaded) for source in SOURCES if source != "zip")
    assert len(loaded) < len(contents) / 2


def test_every_unchanged_file_loads(tmp_path: Path) -> None:
    verdicts = judge_each({source: content for source, (content, _) in SOURCES.items()}, tmp_path)
    assert {verdict["weights"] for verdict in verdicts.values()} == {digest(WEIGHT, BIAS)}
