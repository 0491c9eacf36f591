"""Decide which token pairs of a PARTIAL block see each other, for every Triton kernel.

The rules are those of `kernels.masks`, which describes their parameters. `hide` looks up all tokens and takes
any block. The other functions compute them from the first token of each block (`kernels.plan.form`).

A token is a packed coordinate or a sentinel (`kernels.geometry`): text sees and is seen by everything,
padding neither sees nor is seen.
"""

import triton
import triton.language as tl

FAR = tl.constexpr(2.0**100)  # hidden scores are below -FAR / 2
EVERYWHERE = tl.constexpr(1 << 23)  # a reach beyond the largest frame


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
def _start(x, length, window, stride, dilation):
    """Find the first key of the window of query `x`, as an index inside its dilation group.

    It is that of generalized neighborhood attention on one axis (arXiv 2504.16922). A query sees exactly
    `window` keys of its group, shifted at the borders instead of cut.
    """
    size = (length - x % dilation + dilation - 1) // dilation
    leader = tl.minimum(x // dilation // stride * stride + stride // 2, size - 1)
    return tl.minimum(tl.maximum(leader - window // 2, 0), size - window)


@triton.jit
def _steps(x_k, start, group, dilation):
    """Count the steps from the start of a window to key `x_k`; negative or large outside the group."""
    return tl.where(x_k % dilation == group, x_k // dilation - start, -1)


@triton.jit
def _inside(steps, window):
    return steps.to(tl.uint32, bitcast=True) < window


@triton.jit
def _axis(x_q, x_k, length, window, stride, dilation):
    steps = _steps(x_k, _start(x_q, length, window, stride, dilation), x_q % dilation, dilation)
    return _inside(steps, window)


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


@triton.jit
def query_facts(token, places, rule, MASK: tl.constexpr, TILE_H: tl.constexpr, TILE_W: tl.constexpr):
    """Compute what the rule needs of queries, which does not change from key block to key block.

    `token` is the first of the block, a scalar, and `places` are numbers inside the block. The block is a box
    of `TILE_H x TILE_W` tokens a frame, in raster order; for a band it is a run of the raster in one frame.
    """
    if MASK == "band":
        return _time(token), (_row(token) * rule[0] + _column(token) + places).to(tl.float32)
    else:
        t, y, x = _cells(token, places, TILE_H, TILE_W)
        if MASK == "disk":
            return y.to(tl.float32), x.to(tl.float32)
        else:
            tl.static_assert(MASK == "box", "only disk, box and band are computed")
            return (
                _start(t, rule[0], rule[1], rule[2], rule[3]), t % rule[3],
                _start(y, rule[4], rule[5], rule[6], rule[7]), y % rule[7],
                _start(x, rule[8], rule[9], rule[10], rule[11]), x % rule[11],
            )  # fmt: skip


@triton.jit
def _cells(token, places, TILE_H: tl.constexpr, TILE_W: tl.constexpr):
    t = _time(token) + places // (TILE_H * TILE_W)
    return t, _row(token) + places // TILE_W % TILE_H, _column(token) + places % TILE_W


@triton.jit
def _lower(s, bound):
    return tl.minimum(s, bound, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _margin(x_k, start, group, window, dilation):
    """Return how deep inside its window a key is, from 0.5 on, times `FAR`; below 0 if it is outside."""
    steps = tl.where(x_k % dilation == group, x_k // dilation - start, -1)
    return tl.minimum(steps, window - 1 - steps).to(tl.float32) * FAR + FAR / 2


@triton.jit
def last_regular(token, BM, BN, rule, frame, MASK: tl.constexpr):
    """Return the last place of a frame where a run of keys may start, or -1 if queries are of two frames."""
    if MASK == "band":
        return tl.where(_row(token) * rule[0] + _column(token) + BM <= frame, frame - BN, -1)
    else:
        return 0


@triton.jit
def is_regular(token, last, rule, MASK: tl.constexpr):
    """Return whether `hide_by_rule` may take a block of keys, by its first token."""
    if MASK == "band":
        return (token >= 0) & (_row(token) * rule[0] + _column(token) <= last)
    else:
        return token >= 0


@triton.jit
def hide_by_rule(
    s, facts, token, places, table, rule, rows, columns,
    MASK: tl.constexpr, TILE_H: tl.constexpr, TILE_W: tl.constexpr,
):  # fmt: skip
    """Lower scores to half of the lowest value or below where queries of `facts` do not see keys at `places`.

    `token`, `TILE_H` and `TILE_W` are those of keys, as in `query_facts`. Places beyond the grid of `rows x
    columns` tokens are hidden. A pair costs a subtraction and a minimum; the rest is per row or per column.
    All numbers are integers or halves below 2^24, so float32 is exact.
    """
    if MASK == "band":
        t = _time(token)
        reach = tl.load(table + tl.abs(t - facts[0]))
        reach = tl.where(t < rule[1], 1 << 22, reach).to(tl.float32)
        x = (_row(token) * rule[0] + _column(token) + places).to(tl.float32)
        return _lower(s, (reach + 0.5) * FAR - tl.abs(x - facts[1]) * FAR)
    else:
        t, y, x = _cells(token, places, TILE_H, TILE_W)
        if MASK == "disk":
            away = 1 << 13  # squared it is more than any radius has
            dy = facts[0] - tl.where(y < rows, y, away).to(tl.float32)
            dx = facts[1] - tl.where(x < columns, x, away).to(tl.float32)
            square = tl.minimum(rule[0], 1 << 23).to(tl.float32)
            return _lower(s, (square - 0.5 - dy * dy) * FAR - dx * dx * FAR)
        else:
            # no window leaves the grid, so none reaches a place beyond it
            in_t = _margin(t, facts[0], facts[1], rule[1], rule[3])
            in_y = _margin(y, facts[2], facts[3], rule[5], rule[7])
            in_x = _margin(x, facts[4], facts[5], rule[9], rule[11])
            return _lower(_lower(s, tl.minimum(in_t, in_y)), in_x)


@triton.jit
def _reach(table, t_q, t_k, sink, frames):
    """Return how wide the band is between two frames; behind the last frame is text, which all see."""
    d = tl.abs(t_q - t_k)
    reach = tl.load(table + d, mask=(t_q < frames) & (t_k < frames), other=EVERYWHERE)
    return tl.where(t_k < sink, EVERYWHERE, reach)


@triton.jit
def hide_runs(s, facts, token, n_places, table, rule, frame):
    """Lower scores as `hide_by_rule` does, for a band and runs that may go on in the next frame or in text.

    A query sees one interval of places in each of the two frames.
    """
    t_q = facts[0]
    t = _time(token)
    x_q = facts[1].to(tl.int32)
    same = x_q < frame
    x_q = tl.where(same, x_q, x_q - frame)
    reach = tl.where(
        same, _reach(table, t_q, t, rule[1], rule[2]), _reach(table, t_q + 1, t, rule[1], rule[2])
    )
    other = tl.where(
        same, _reach(table, t_q, t + 1, rule[1], rule[2]), _reach(table, t_q + 1, t + 1, rule[1], rule[2])
    )
    begin = _row(token) * rule[0] + _column(token)  # of the block; the next frame starts behind it
    place = n_places.to(tl.float32) * FAR
    inside = _between(place, x_q - reach - begin, tl.minimum(x_q + reach, frame - 1) - begin)
    next_frame = _between(place, tl.maximum(x_q - other, 0) + frame - begin, x_q + other + frame - begin)
    return _lower(s, tl.where(token < 0, FAR, tl.maximum(inside, next_frame)))


@triton.jit
def _between(x, low, high):
    """Return a number above 0 where `low <= x / FAR <= high`, all integers, else one below 0."""
    below = (low.to(tl.float32) - 0.5) * FAR
    above = (high.to(tl.float32) + 0.5) * FAR
    return tl.minimum(x - below, above - x)


@triton.jit
def hide_absent(s, columns, k_coord, S_kv):
    """Lower scores as `hide_by_rule` does where there is no key: padding, and beyond the sequence."""
    k = tl.load(k_coord + columns, mask=columns < S_kv, other=-2)
    return _lower(s, tl.where(k == -2, -FAR, FAR))
