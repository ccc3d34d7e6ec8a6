"""The attention core on a GPU: flash attention whose key rows come from an address function that each op brings.

    out[i] = sum_j p[i, j] w[j] v[j],   p[i] = softmax over the listed j of (scale * w[j] * q[i] . k[j])

Forward: online softmax over tiles of listed keys, log-sum-exp kept (FlashAttention-2, arXiv 2307.08691).
Backward, by recomputation of p:

    dP = w dO V^T,  dS = p * (dP - rowsum(dO * O)),  dQ = scale * dS (w K),  dK = scale * w dS^T Q,  dV = w p^T dO

dQ goes by the list; dK and dV by the inverted list (for each key tile the queries that list it), so nothing is added
atomically and two runs are equal to the bit.

Tokens come in groups (a region, a block); a group of queries has one list of key groups. An op brings three jit
functions over operands of its own, and the same for the inverted list, with keys and queries exchanged:

    OWN(image, head, group, lanes, operands)           -> row, readable, counts
    LENGTH(image, head, group, operands)               -> number of positions in the group's list
    LISTED(image, head, group, start, lanes, operands) -> row, readable, counts, weight, of positions start + lanes

`row` is a token of (B, H, N, D); a row that is not readable is a zero vector, which takes part in the softmax if it
counts. Positions past the length neither are readable nor count. A tile of positions may span several groups, so that
small groups fill it. Widths are padded inside to a power of two.

Launching is launch.py's.
"""

# What a jit function takes has no Python type:
# mypy: allow-untyped-defs

import triton
import triton.language as tl

# The interpreter's product of bfloat16 is silently wrong, and its range takes no loaded bound under numpy 2.4.
INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)

LOG2_E = tl.constexpr(1.4426950408889634)
LOWEST = tl.constexpr(-3.4028234663852886e38)  # instead of -inf, so that no difference of maxima is inf - inf


@triton.jit
def forward_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    out_ptr,
    lse_ptr,
    q_strides,
    k_strides,
    v_strides,
    out_strides,
    operands,
    heads,
    groups,
    tiles,
    num_q,
    width,
    value_width,
    scale,
    OWN: tl.constexpr,
    LENGTH: tl.constexpr,
    LISTED: tl.constexpr,
    WEIGHTED: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_V: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDE: tl.constexpr,
):
    """One program a tile of queries: out and the log-sum-exp (base 2), of an empty list 0 and inf."""
    image, head, group, tile = _place(heads, groups, tiles)
    row, readable, _ = OWN(image, head, group, tile * BLOCK_Q + tl.arange(0, BLOCK_Q), operands)
    q = _load(q_ptr, q_strides, image, head, row, readable, width, BLOCK_D, WIDE)
    highest = tl.full([BLOCK_Q], LOWEST, tl.float32)
    total = tl.zeros([BLOCK_Q], tl.float32)
    out = tl.zeros([BLOCK_Q, BLOCK_V], tl.float32)
    length = LENGTH(image, head, group, operands)
    for start in tl.range(0, _bound(length), BLOCK_K):
        k_row, k_readable, counts, weight = LISTED(image, head, group, start, tl.arange(0, BLOCK_K), operands)
        k = _load(k_ptr, k_strides, image, head, k_row, k_readable, width, BLOCK_D, WIDE)
        scores = _dot(q, tl.trans(k), PRECISION) * (scale * LOG2_E)
        if WEIGHTED:
            scores *= weight[None, :]
        scores = tl.where(counts[None, :], scores, float("-inf"))
        new_highest = tl.maximum(highest, tl.max(scores, 1))
        p = tl.exp2(scores - new_highest[:, None])
        shrink = tl.exp2(highest - new_highest)
        total = total * shrink + tl.sum(p, 1)
        if WEIGHTED:
            p *= weight[None, :]
        v = _load(v_ptr, v_strides, image, head, k_row, k_readable, value_width, BLOCK_V, WIDE)
        out = _dot_add(p.to(v.dtype), v, out * shrink[:, None], PRECISION)
        highest = new_highest
    empty = total == 0
    out = out / tl.where(empty, 1.0, total)[:, None]
    _store(out_ptr, out_strides, image, head, row, readable, value_width, out, BLOCK_V, WIDE)
    lse = tl.where(empty, float("inf"), highest + tl.log2(total))
    tl.store(_of_rows(lse_ptr, image, head, heads, num_q) + row, lse, mask=readable)


@triton.jit
def backward_queries_kernel(
    grad_out_ptr,
    q_ptr,
    k_ptr,
    v_ptr,
    out_ptr,
    lse_ptr,
    delta_ptr,
    grad_q_ptr,
    grad_weight_ptr,
    grad_out_strides,
    q_strides,
    k_strides,
    v_strides,
    out_strides,
    grad_q_strides,
    operands,
    heads,
    groups,
    tiles,
    num_q,
    longest,
    width,
    value_width,
    scale,
    OWN: tl.constexpr,
    LENGTH: tl.constexpr,
    LISTED: tl.constexpr,
    WEIGHTED: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_V: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDE: tl.constexpr,
):
    """One program a tile of queries: dQ, rowsum(dO * O) for the other kernel, and this tile's share of dw."""
    image, head, group, tile = _place(heads, groups, tiles)
    row, readable, _ = OWN(image, head, group, tile * BLOCK_Q + tl.arange(0, BLOCK_Q), operands)
    q = _load(q_ptr, q_strides, image, head, row, readable, width, BLOCK_D, WIDE)
    grad_out = _load(grad_out_ptr, grad_out_strides, image, head, row, readable, value_width, BLOCK_V, WIDE)
    out = _load(out_ptr, out_strides, image, head, row, readable, value_width, BLOCK_V, WIDE)
    delta = tl.sum(grad_out.to(tl.float32) * out.to(tl.float32), 1)
    tl.store(_of_rows(delta_ptr, image, head, heads, num_q) + row, delta, mask=readable)
    # inf makes p zero: of lanes without a query as of queries with an empty list
    lse = tl.load(_of_rows(lse_ptr, image, head, heads, num_q) + row, mask=readable, other=float("inf"))
    grad_q = tl.zeros([BLOCK_Q, BLOCK_D], tl.float32)
    length = LENGTH(image, head, group, operands)
    for start in tl.range(0, _bound(length), BLOCK_K):
        k_row, k_readable, counts, weight = LISTED(image, head, group, start, tl.arange(0, BLOCK_K), operands)
        k = _load(k_ptr, k_strides, image, head, k_row, k_readable, width, BLOCK_D, WIDE)
        v = _load(v_ptr, v_strides, image, head, k_row, k_readable, value_width, BLOCK_V, WIDE)
        products = _dot(q, tl.trans(k), PRECISION)
        scores = products * (scale * LOG2_E)
        grad_p = _dot(grad_out, tl.trans(v), PRECISION)
        if WEIGHTED:
            scores *= weight[None, :]
        p = tl.exp2(tl.where(counts[None, :], scores, float("-inf")) - lse[:, None])
        if WEIGHTED:
            grad_scores = p * (grad_p * weight[None, :] - delta[:, None])
            grad_weight = tl.sum(p * grad_p + grad_scores * products * scale, 0)
            positions = start + tl.arange(0, BLOCK_K)
            list_ptr = grad_weight_ptr + tl.program_id(0).to(tl.int64) * longest
            tl.store(list_ptr + positions, grad_weight, mask=positions < length)
            grad_scores *= weight[None, :]
        else:
            grad_scores = p * (grad_p - delta[:, None])
        grad_q = _dot_add(grad_scores.to(k.dtype), k, grad_q, PRECISION)
    _store(grad_q_ptr, grad_q_strides, image, head, row, readable, width, grad_q * scale, BLOCK_D, WIDE)


@triton.jit
def backward_keys_kernel(
    grad_out_ptr,
    q_ptr,
    k_ptr,
    v_ptr,
    lse_ptr,
    delta_ptr,
    grad_k_ptr,
    grad_v_ptr,
    grad_out_strides,
    q_strides,
    k_strides,
    v_strides,
    grad_k_strides,
    grad_v_strides,
    operands,
    heads,
    groups,
    tiles,
    num_q,
    width,
    value_width,
    scale,
    OWN: tl.constexpr,
    LENGTH: tl.constexpr,
    LISTED: tl.constexpr,
    WEIGHTED: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_V: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDE: tl.constexpr,
):
    """One program a tile of keys, over the queries that list it: dK and dV. Scores lie (BLOCK_K, BLOCK_Q)."""
    image, head, group, tile = _place(heads, groups, tiles)
    row, readable, counts = OWN(image, head, group, tile * BLOCK_K + tl.arange(0, BLOCK_K), operands)
    k = _load(k_ptr, k_strides, image, head, row, readable, width, BLOCK_D, WIDE)
    v = _load(v_ptr, v_strides, image, head, row, readable, value_width, BLOCK_V, WIDE)
    grad_k = tl.zeros([BLOCK_K, BLOCK_D], tl.float32)
    grad_v = tl.zeros([BLOCK_K, BLOCK_V], tl.float32)
    length = LENGTH(image, head, group, operands)
    for start in tl.range(0, _bound(length), BLOCK_Q):
        q_row, q_readable, _, weight = LISTED(image, head, group, start, tl.arange(0, BLOCK_Q), operands)
        q = _load(q_ptr, q_strides, image, head, q_row, q_readable, width, BLOCK_D, WIDE)
        lse = tl.load(_of_rows(lse_ptr, image, head, heads, num_q) + q_row, mask=q_readable, other=float("inf"))
        scores = _dot(k, tl.trans(q), PRECISION) * (scale * LOG2_E)
        if WEIGHTED:
            scores *= weight[None, :]
        p = tl.exp2(tl.where(counts[:, None], scores, float("-inf")) - lse[None, :])
        grad_out = _load(grad_out_ptr, grad_out_strides, image, head, q_row, q_readable, value_width, BLOCK_V, WIDE)
        grad_p = _dot(v, tl.trans(grad_out), PRECISION)
        delta = tl.load(_of_rows(delta_ptr, image, head, heads, num_q) + q_row, mask=q_readable, other=0.0)
        if WEIGHTED:
            grad_scores = p * (grad_p * weight[None, :] - delta[None, :]) * weight[None, :]
            p *= weight[None, :]
        else:
            grad_scores = p * (grad_p - delta[None, :])
        grad_v = _dot_add(p.to(grad_out.dtype), grad_out, grad_v, PRECISION)
        grad_k = _dot_add(grad_scores.to(q.dtype), q, grad_k, PRECISION)
    _store(grad_k_ptr, grad_k_strides, image, head, row, readable, width, grad_k * scale, BLOCK_D, WIDE)
    _store(grad_v_ptr, grad_v_strides, image, head, row, readable, value_width, grad_v, BLOCK_V, WIDE)


@triton.jit
def _place(heads, groups, tiles):
    """This program's image, head, group, and tile inside the group: tiles of one head follow each other, for the L2."""
    program = tl.program_id(0)
    group = program // tiles
    sequence = group // groups
    return sequence // heads, sequence % heads, group % groups, program % tiles


@triton.jit
def _pointers(ptr, strides, image, head, row, BLOCK: tl.constexpr, WIDE: tl.constexpr):
    stride_b, stride_h, stride_n, stride_d = strides
    offs = tl.arange(0, BLOCK)
    if WIDE:
        row = row.to(tl.int64)
        offs = offs.to(tl.int64)
    ptr += image.to(tl.int64) * stride_b + head.to(tl.int64) * stride_h
    return ptr + (row[:, None] * stride_n + offs[None, :] * stride_d)


@triton.jit
def _load(ptr, strides, image, head, row, readable, width, BLOCK: tl.constexpr, WIDE: tl.constexpr):
    mask = readable[:, None] & (tl.arange(0, BLOCK) < width)[None, :]
    return tl.load(_pointers(ptr, strides, image, head, row, BLOCK, WIDE), mask=mask, other=0.0)


@triton.jit
def _store(ptr, strides, image, head, row, writable, width, value, BLOCK: tl.constexpr, WIDE: tl.constexpr):
    mask = writable[:, None] & (tl.arange(0, BLOCK) < width)[None, :]
    tl.store(_pointers(ptr, strides, image, head, row, BLOCK, WIDE), value.to(ptr.dtype.element_ty), mask=mask)


@triton.jit
def _of_rows(ptr, image, head, heads, num_rows):
    """Start of (image, head) in a contiguous (B, H, num_rows)."""
    return ptr + (image * heads + head).to(tl.int64) * num_rows


@triton.jit
def _dot(a, b, PRECISION: tl.constexpr):
    if INTERPRETED:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, input_precision=PRECISION)


@triton.jit
def _dot_add(a, b, accumulator, PRECISION: tl.constexpr):
    if INTERPRETED:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, accumulator, input_precision=PRECISION)


if triton.knobs.runtime.interpret:

    def _bound(length):
        return length.handle.data.item()

else:

    @triton.jit
    def _bound(length):
        return length
