"""The layout that Thimble would have been published in."""

from __future__ import annotations

from torch import Tensor, nn

LAYOUT = "thimble published"
WEIGHTS_KEY = "model"
RENAMES = ((r"^body\.(\d+)\.", r"stages.\1."),)


def publish(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our names and shapes in the published layout: undoes RENAMES."""
    return {name.replace("stages.", "body."): tensor for name, tensor in state.items()}
