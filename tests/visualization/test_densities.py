from pathlib import Path

import pytest
from PIL import Image

from visionsparse.errors import InputError
from visionsparse.visualization.densities import draw_densities

COMMON = {"op": "block_sparse_attention", "tokens": 8192, "pass": "forward", "dtype": "float32", "threads": 1}


def record(candidate: str, ms: float, **more: object) -> dict[str, object]:
    return {**COMMON, "candidate": candidate, "baseline": "dense SDPA", "median_ms": ms, "density": 1.0, **more}


def test_a_panel_is_drawn_for_every_length(tmp_path: Path) -> None:
    dense = record("dense SDPA", 100.0)
    sparse = [record("ours", ms, block=64, density=density) for ms, density in ((30.0, 0.25), (60.0, 0.5))]
    one = draw_densities([dense, *sparse], tmp_path / "one.png")
    two = draw_densities([dense, *sparse, *({**line, "tokens": 4096} for line in sparse)], tmp_path / "two.png")
    with Image.open(one) as first, Image.open(two) as second:
        assert second.width > first.width
        assert min(first.size) > 300


def test_nothing_with_a_density_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing was measured at several densities"):
        draw_densities([record("dense SDPA", 100.0)], tmp_path / "none.png")
