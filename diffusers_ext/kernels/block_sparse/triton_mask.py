"""Decide which token pairs of a PARTIAL block see each other, for every Triton kernel.

The rules are those of `kernels.masks`, which describes their parameters.

A token is a packed coordinate or a sentinel (`kernels.geometry`): text sees and is seen by everything,
padding neither sees nor is seen.
"""

import triton
import triton.language as tl


@triton.jit
def _time(token):
    return (token >> 22) & 1023


@triton.jit
def _row(token):
    return (token >> 11) & 2047


@triton.jit
def _column(token):
    return token & 2047


@triton.jit
def _axis(x_q, x_k, length, window, stride, dilation):
    """Apply generalized neighborhood attention on one axis (arXiv 2504.16922).

    A query sees exactly `window` keys of its dilation group, shifted at the borders instead of cut.
    """
    group = x_q % dilation
    size = (length - group + dilation - 1) // dilation
    leader = tl.minimum(x_q // dilation // stride * stride + stride // 2, size - 1)
    start = tl.minimum(tl.maximum(leader - window // 2, 0), size - window)
    j = x_k // dilation
    return (x_k % dilation == group) & (j >= start) & (j < start + window)


@triton.jit
def _hide_band(s, q, k, table, width, sink, frames):
    """Apply radial attention (arXiv 2506.19852).

    Tokens d frames apart see each other up to a distance of `table[d]` along the raster.

    A tile holds queries of one or two frames. A loop over those makes the look-up a vector over keys; one per
    pair would need a gather. Masking `s` in place keeps no second tile in registers.
    """
    t_q = _time(q)
    t_k = _time(k)
    free = (k == -1) | (t_k < sink)
    for frame in range(tl.min(tl.where(q >= 0, t_q, frames)), tl.max(tl.where(q >= 0, t_q, -1)) + 1):
        d = tl.abs(t_k - frame)
        reach = tl.where(free, 1 << 30, tl.load(table + d, mask=d < frames, other=-1))
        along = tl.abs(_row(q) * width + _column(q) - _row(k) * width - _column(k))
        s = tl.where((t_q == frame) & (along > reach), float("-inf"), s)
    return s


@triton.jit
def hide(s, rows, columns, q_coord, k_coord, table, rule, S_q, S_kv, MASK: tl.constexpr):
    """Set scores to -inf if query `rows` do not see key `columns`, and outside the sequences.

    Both are int32 and broadcast to `s` ([M, 1] with [1, N] or the transpose).
    """
    q = tl.load(q_coord + rows, mask=rows < S_q, other=-2)
    k = tl.load(k_coord + columns, mask=columns < S_kv, other=-2)
    seen = (q != -2) & (k != -2)
    if MASK == "disk":
        dy = _row(q) - _row(k)
        dx = _column(q) - _column(k)
        seen &= (dy * dy + dx * dx < rule[0]) | (q == -1) | (k == -1)
    elif MASK == "box":
        in_window = _axis(_time(q), _time(k), rule[0], rule[1], rule[2], rule[3])
        in_window &= _axis(_row(q), _row(k), rule[4], rule[5], rule[6], rule[7])
        in_window &= _axis(_column(q), _column(k), rule[8], rule[9], rule[10], rule[11])
        seen &= in_window | (q == -1) | (k == -1)
    elif MASK == "band":
        s = _hide_band(s, q, k, table, rule[0], rule[1], rule[2])
    elif MASK == "lut":
        inside = (q >= 0) & (k >= 0)
        seen &= tl.load(table + q.to(tl.int64) * rule[1] + k, mask=inside, other=1) != 0
    else:
        tl.static_assert(MASK == "none", "mask must be none, disk, box, band or lut")
    return tl.where(seen, s, float("-inf"))
