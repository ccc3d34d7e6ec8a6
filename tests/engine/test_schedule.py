from __future__ import annotations

import math

import pytest
import torch

from tests.engine.tiny import TinyNet
from visionsparse.engine.schedule import WarmupCosineLR


def rates(epochs: int, lr: float, **arguments) -> list[float]:
    optimizer = torch.optim.SGD(TinyNet().parameters(), lr=lr)
    scheduler = WarmupCosineLR(optimizer, end=epochs, **arguments)
    found = []
    for _ in range(epochs):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_it_equals_timms_schedule_stepped_after_each_epoch() -> None:
    from timm.scheduler import CosineLRScheduler

    optimizer = torch.optim.SGD(TinyNet().parameters(), lr=1e-3)
    timms = CosineLRScheduler(optimizer, t_initial=30, lr_min=1e-5, warmup_t=5, warmup_lr_init=1e-6)
    expected = []
    for epoch in range(30):
        expected.append(optimizer.param_groups[0]["lr"])
        timms.step(epoch)

    assert rates(30, 1e-3, warmup_epochs=5, warmup_lr=1e-6, eta_min=1e-5) == pytest.approx(expected, rel=1e-12)


def test_without_a_warm_up_it_is_a_cosine() -> None:
    expected = [1.0] + [0.5 * (1 + math.cos(math.pi * epoch / 10)) for epoch in range(9)]

    assert rates(10, 1.0, warmup_epochs=0, eta_min=0.0) == pytest.approx(expected)


def test_a_run_shorter_than_its_warm_up_ends_in_it() -> None:
    assert rates(3, 5.0, warmup_epochs=5, warmup_lr=1.0) == pytest.approx([1.0, 1.0, 1.8])
