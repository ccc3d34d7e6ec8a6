from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.engine.tiny import tiny_config, write_config, write_images


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="session")
def config(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_config(tmp_path_factory.mktemp("configs") / "tiny.py", tiny_config(images))


@pytest.fixture(autouse=True)
def _deterministic_mode_off():
    yield
    torch.use_deterministic_algorithms(False)
