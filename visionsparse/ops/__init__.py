"""The sparse-op layer: one public function an op, its maths in the docstring, interchangeable backends below.

    from visionsparse import ops
    out = ops.routed_attention(q, k, v, routes, region_size=(7, 7))
    with ops.use_backend("reference"):
        ...

Needs torch only.
"""

from visionsparse.ops.block_lists import BlockLists
from visionsparse.ops.block_sparse_attention import block_sparse_attention
from visionsparse.ops.dispatch import backends, use_backend
from visionsparse.ops.routed_attention import routed_attention

__all__ = ["BlockLists", "backends", "block_sparse_attention", "routed_attention", "use_backend"]
