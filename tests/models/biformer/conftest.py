from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from tests.models.biformer.trial import nano, recipe
from visionsparse.datasets.digits import write_digits
from visionsparse.engine.runner import train


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One embedded digit of each class in train/ and in val/: two batches of five."""
    whole, few = tmp_path_factory.mktemp("digits") / "digits", tmp_path_factory.mktemp("few")
    write_digits(whole)
    for folder in sorted(whole.glob("*/*/")):
        target = few / folder.relative_to(whole)
        target.mkdir(parents=True)
        shutil.copy(min(folder.glob("*.png")), target)
    return few


@pytest.fixture(scope="session")
def straight(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of nine iterations that kept every checkpoint."""
    folder = tmp_path_factory.mktemp("straight")
    options = {**nano(digits, 0), "default_hooks.checkpoint.max_keep_ckpts": -1}
    train(recipe("small"), work_dir=folder, amp="bf16", deterministic=True, device="cpu", options=options)
    return folder


@pytest.fixture(autouse=True)
def _deterministic_mode_off():
    yield
    torch.use_deterministic_algorithms(False)
