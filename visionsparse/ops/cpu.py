"""What torch tells of this machine's CPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch


def cpu_facts() -> Mapping[str, Any]:
    """torch.cpu.get_capabilities(), such as `cpu_name` and `l2_cache_size` (bytes); empty before torch 2.11."""
    facts: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return facts


def l2_cache_bytes() -> int:
    """Of one core; 1 MiB where torch doesn't tell."""
    return int(cpu_facts().get("l2_cache_size") or 1 << 20)
