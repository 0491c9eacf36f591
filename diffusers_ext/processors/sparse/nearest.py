"""Find the closest aligned sizes: they fill blocks, within what kernels address."""

import math

from ...kernels.geometry import LIMITS, Grid

MOST = tuple(limit + 1 for limit in LIMITS)  # tokens on an axis


def aligned_grid(grid: Grid, tile: tuple[Grid, Grid]) -> Grid:
    """Find the closest grid that tiles of queries and of keys fill, each axis on its own."""
    return tuple(_multiple(n, math.lcm(q, k), most) for n, q, k, most in zip(grid, *tile, MOST, strict=True))


def aligned_frame(h: int, w: int, edges: tuple[int, int], tokens: int) -> tuple[int, int] | None:
    """Find the closest height and width that are multiples of `edges`, or return `None`.

    Their product is a multiple of `tokens`.
    """
    _, high, wide = MOST
    steps = {
        a: math.lcm(edges[1], tokens // math.gcd(tokens, a)) for a in range(edges[0], high + 1, edges[0])
    }
    sizes = [(a, _multiple(w, step, wide)) for a, step in steps.items() if step <= wide]
    return min(sizes, key=lambda size: (abs(size[0] - h) + abs(size[1] - w), size), default=None)


def aligned_text(text: int, tile: tuple[Grid, Grid]) -> dict[str, int]:
    """Align `text`, if there is any, with blocks of queries and of keys."""
    return {"text": _multiple(text, math.lcm(*map(math.prod, tile)))} if text else {}


def _multiple(size: int, step: int, most: int = 1 << 31) -> int:
    """Find the multiple of `step` closest to a size: at least one step, and not above `most`."""
    return max(step, min(round(size / step), most // step) * step)
