"""Tests of visionsparse.ops.cpu: what is known of the CPU, with and without torch telling."""

from __future__ import annotations

from unittest import mock

import pytest
import torch

from visionsparse.ops.cpu import cpu_facts, l2_cache_bytes

pytestmark = pytest.mark.newest_torch


@pytest.mark.skipif(torch.__version__ < "2.11", reason="torch 2.11 is the first that tells")
def test_torch_still_tells_by_these_names() -> None:
    assert {"cpu_name", "avx_vnni", "l2_cache_size"} <= cpu_facts().keys()  # else all uses would quietly do without


def test_the_cache_is_what_torch_tells() -> None:
    with mock.patch.object(torch.cpu, "get_capabilities", return_value={"l2_cache_size": 1 << 19}, create=True):
        assert l2_cache_bytes() == 1 << 19


@pytest.mark.parametrize("told", [{}, {"l2_cache_size": 0}], ids=str)
def test_where_torch_does_not_tell_it_is_taken_as_a_mebibyte(told: dict[str, int]) -> None:
    with mock.patch.object(torch.cpu, "get_capabilities", return_value=told, create=True):
        assert l2_cache_bytes() == 1 << 20


def test_an_older_torch_tells_nothing() -> None:
    with mock.patch.object(torch, "cpu", object()):
        assert cpu_facts() == {}
