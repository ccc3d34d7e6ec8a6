"""Modules that two or more systems share."""

from visionsparse.layers.drop_path import DropPath
from visionsparse.layers.norm import LayerNorm2d

__all__ = ["DropPath", "LayerNorm2d"]
