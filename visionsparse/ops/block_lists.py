"""A block mask as lists: for every query block the key blocks that it sees.

The padded form (one row of `indices` a query block, `counts` saying how much of it is meant) has shapes that do not
depend on the mask's values, so that building it never waits for a GPU and compiles.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from visionsparse.errors import InputError
from visionsparse.ops.inputs import can_look_at, dtype_name


@dataclass(frozen=True, eq=False)
class BlockLists:
    """The key blocks of every query block, to be built once and used for many calls.

    Attributes:
        indices: (B or 1, H or 1, query blocks, L) int32 numbers of key blocks; of a row only the first `counts` entries
            are meant, in ascending order, each once; the others are valid numbers too.
        counts: (B or 1, H or 1, query blocks) int32.
        num_key_blocks: how many key blocks there are.
    """

    indices: Tensor
    counts: Tensor
    num_key_blocks: int

    @classmethod
    def from_mask(cls, mask: Tensor) -> BlockLists:
        """From a bool mask (B or 1, H or 1, query blocks, key blocks), True = the query block sees the key block.

        On CPU the lists are cut to the longest one; elsewhere looking for it would wait for the device.

        Raises: InputError for another dtype or number of dimensions.
        """
        check_mask(mask)
        counts = mask.sum(-1, dtype=torch.int32)
        indices = mask.byte().argsort(dim=-1, descending=True, stable=True).int()
        if can_look_at(counts) and counts.numel():
            indices = indices[..., : int(counts.max())].contiguous()
        return cls(indices, counts, mask.shape[-1])

    @classmethod
    def from_flex(cls, block_mask: Any) -> BlockLists:
        """From a BlockMask of torch.nn.attention.flex_attention that has no partial blocks.

        Raises: InputError where some block is partial, that is, decided token by token.
        """
        whole = [(block_mask.full_kv_num_blocks, block_mask.full_kv_indices)]
        if getattr(block_mask.mask_mod, "__name__", None) == "noop_mask":  # nothing is decided token by token
            whole.append((block_mask.kv_num_blocks, block_mask.kv_indices))
        elif block_mask.kv_num_blocks.any():
            raise InputError(
                f"block_mask has {int(block_mask.kv_num_blocks.sum())} partial blocks but only whole ones are taken:"
                " let the mask depend on the block's number alone, or use flex_attention."
            )
        num_key_blocks = -(-block_mask.seq_lengths[1] // block_mask.BLOCK_SIZE[1])
        masks = [cls(indices, num, num_key_blocks).to_mask() for num, indices in whole if num is not None]
        return cls.from_mask(torch.stack(masks).any(0))

    def to_mask(self) -> Tensor:
        """(B or 1, H or 1, query blocks, key blocks) bool."""
        columns = torch.arange(self.indices.shape[-1], device=self.indices.device)
        meant = columns < self.counts[..., None]
        # What is not meant goes to one column too many. It may name a block that is meant elsewhere in the row.
        where = self.indices.long().masked_fill(~meant, self.num_key_blocks)
        mask = meant.new_zeros(*self.counts.shape, self.num_key_blocks + 1)
        return mask.scatter(-1, where, True)[..., : self.num_key_blocks]

    @functools.cached_property
    def inverted(self) -> BlockLists:
        """For every key block the query blocks that see it: what a backward pass needs that sums dK and dV in place."""
        return BlockLists.from_mask(self.to_mask().mT)

    def __repr__(self) -> str:
        return f"BlockLists({' x '.join(map(str, (*self.counts.shape, self.num_key_blocks)))}, {self.counts.device})"


def as_lists(block_mask: Tensor | BlockLists) -> BlockLists:
    return block_mask if isinstance(block_mask, BlockLists) else BlockLists.from_mask(block_mask)


def as_mask(block_mask: Tensor | BlockLists) -> Tensor:
    return block_mask.to_mask() if isinstance(block_mask, BlockLists) else block_mask


def is_flex(block_mask: Any) -> bool:
    """Whether it is FlexAttention's BlockMask, asked without the 2 s of importing it."""
    return (type(block_mask).__module__, type(block_mask).__name__) == (
        "torch.nn.attention.flex_attention",
        "BlockMask",
    )


def check_lists(lists: BlockLists) -> None:
    """Refuse lists put together by hand that don't hold together. Values are looked at on CPU only."""
    indices, counts, num = lists.indices, lists.counts, lists.num_key_blocks
    if indices.dim() != 4 or indices.shape[:3] != counts.shape:
        raise InputError(
            f"BlockLists has indices {tuple(indices.shape)} and counts {tuple(counts.shape)}:"
            " give (B or 1, H or 1, query blocks, L) and (B or 1, H or 1, query blocks)."
        )
    if (indices.dtype, counts.dtype) != (torch.int32, torch.int32):
        raise InputError(
            f"BlockLists has indices {dtype_name(indices.dtype)} and counts {dtype_name(counts.dtype)}: give int32."
        )
    if can_look_at(indices) and indices.numel():
        (low, high), (fewest, most) = (map(int, x.aminmax()) for x in (indices, counts))
        if low < 0 or high >= num:
            raise InputError(
                f"BlockLists lists key block {low if low < 0 else high} of {num}: number them from 0 to {num - 1}."
            )
        if fewest < 0 or most > indices.shape[3]:
            raise InputError(
                f"BlockLists counts {fewest if fewest < 0 else most} key blocks in a list of {indices.shape[3]}:"
                " give the length of each list's meant part."
            )


def check_mask(mask: Any) -> None:
    if not isinstance(mask, Tensor):
        raise InputError(f"block_mask is a {type(mask).__name__}: give a bool tensor, ops.BlockLists or a BlockMask.")
    if mask.dtype != torch.bool:
        raise InputError(f"block_mask is {dtype_name(mask.dtype)}: give bool, True where a block is attended to.")
    if mask.dim() != 4:
        raise InputError(
            f"block_mask has {mask.dim()} dimensions {tuple(mask.shape)}:"
            " give (B or 1, H or 1, query blocks, key blocks)."
        )
