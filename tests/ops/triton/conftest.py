"""Tiles of 16 x 16, so that small shapes have several."""

from __future__ import annotations

import pytest


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    from visionsparse.ops.triton import launch
    from visionsparse.ops.triton.tiles import Tile

    monkeypatch.setattr(launch, "choose_tile", lambda *_: Tile(16, 16, 4, 1))
