"""Put subjects of a picture on a grid of tokens, and move them from one grid to another."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Area = Sequence[float] | Sequence[Sequence[float]]  # a box [left, top, right, bottom] in fractions, or a mask
COVERED = 0.5  # the share of a place that a subject covers


def fits(area: Area, size: tuple[int, int]) -> bool:
    """Return whether a mask has the shape of a grid, whatever its size; a box always has."""
    h, w = size
    return isinstance(area[0], (int, float)) or abs(len(area) / len(area[0]) * w - h) < 1


def coverage(area: Area, size: tuple[int, int]) -> Tensor:
    """Return the share of each place of a grid that an area covers, `[h, w]` from 0 to 1.

    An area is a box `[left, top, right, bottom]` in fractions of the picture, or a mask in rows.
    """
    given = torch.as_tensor(area, dtype=torch.float32)
    if given.ndim == 1:
        left, top, right, bottom = given.tolist()
        across, down = _covered(left, right, size[1]), _covered(top, bottom, size[0])
        return down[:, None] * across
    return F.interpolate(given[None, None], size, mode="area")[0, 0]


def on_grid(covered: Sequence[Tensor]) -> list[Tensor]:
    """Return the masks `[h, w]` of subjects from their coverage; each place belongs to one at most.

    A subject has the places that it covers by half. If there is none, it has those that it covers most, so
    that small subjects do not vanish on coarse grids. A place of two subjects belongs to the smaller one.
    """
    masks = [(c >= min(COVERED, float(c.max()))) & (c > 0) for c in covered]
    taken = torch.zeros_like(masks[0]) if masks else None
    found: list[Tensor] = list(masks)
    for number in sorted(range(len(masks)), key=lambda i: _smaller(masks[i])):
        found[number] = masks[number] & ~taken
        taken = taken | masks[number]
    return found


def moved(source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return where the tokens of a subject come from when its box is resized to that of another mask.

    `source` and `target` are masks `[h, w]`, neither of them empty. The first tensor holds raster numbers of
    places of `source`, the second the places where they come to, both `[n]`. Resizing takes the nearest
    place, `floor(place * old / new)` (IR-Diffusion, arXiv 2411.19261).
    """
    (top, left, height, width), (y0, x0, h, w) = box(source), box(target)
    rows, columns = (torch.arange(n, device=source.device) for n in (h, w))
    y, x = top + rows * height // h, left + columns * width // w
    there = source[y[:, None], x]
    come_from = (y[:, None] * source.shape[1] + x)[there]
    return come_from, ((rows + y0)[:, None] * source.shape[1] + columns + x0)[there]


def multiplicity(source: Tensor, target: Tensor) -> Tensor:
    """Return the number of copies of each place of `source [h, w]` after `moved`, `[h * w]` integers."""
    return torch.bincount(moved(source, target)[0], minlength=source.numel())


def box(mask: Tensor) -> tuple[int, int, int, int]:
    """Return first row, first column, height and width of the smallest box around a mask `[h, w]`."""
    rows, columns = (mask.any(axis).nonzero().flatten() for axis in (1, 0))
    top, left = int(rows[0]), int(columns[0])
    return top, left, int(rows[-1]) + 1 - top, int(columns[-1]) + 1 - left


def _covered(start: float, stop: float, count: int) -> Tensor:
    """Return the share of each of `count` equal parts of a side that is between two fractions of it."""
    edges = torch.arange(count + 1, dtype=torch.float64) / count
    inside = torch.minimum(edges[1:], torch.tensor(stop)) - torch.maximum(edges[:-1], torch.tensor(start))
    return (inside.clamp_min(0) * count).clamp_max(1).float()


def _smaller(mask: Tensor) -> tuple[int, list[int]]:
    """Return a key that sorts masks by their size; it does not depend on their order."""
    places = mask.flatten().nonzero().flatten().tolist()
    return len(places), places
