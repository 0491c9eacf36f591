"""Concepts of a prompt: their tokens, their maps, where they should be, and losses of these maps."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from ..errors import MethodError
from ..kernels.maps import overlap, smoothed
from ..kernels.subjects import Area, coverage, fits
from ..prompts.places import Tokens

SHARPNESS = 100.0  # of the softmax over words, as in Attend-and-Excite


@dataclass(frozen=True)
class Concept:
    """Words of a prompt with their tokens; `area` is a box or a mask that the user wants them in."""

    words: str
    tokens: range
    area: Area | None = None


def concept_maps(attention: Tensor, concepts: Sequence[Concept], tokens: Tokens) -> Tensor:
    """Return the maps of concepts `[C, h, w]` from the attention `[h, w, L]` to all tokens of a prompt.

    Start, end and padding are left out, and a softmax over the words compares them (Attend-and-Excite, arXiv
    2301.13826, section 4.1). A concept of several tokens has the mean of their maps. Maps are smoothed.
    """
    words = (SHARPNESS * attention[..., 1 : tokens.last]).softmax(-1)
    maps = [words[..., c.tokens.start - 1 : c.tokens.stop - 1].mean(-1) for c in concepts]
    return smoothed(torch.stack(maps))


def segregation(maps: Tensor) -> Tensor:
    """Return the sum of overlaps of all pairs of maps `[C, h, w]` (A-STAR, arXiv 2306.14544, eq. 1)."""
    first, second = torch.triu_indices(len(maps), len(maps), 1, device=maps.device)
    return overlap(maps[first], maps[second]).sum()


def retention(maps: Tensor, masks: Tensor) -> Tensor:
    """Return the sum of `1 - overlap` of maps `[C, h, w]` with their masks (A-STAR, eq. 2).

    Maps are divided by their largest value, so that an equal map has 0.5.
    """
    scaled = maps / maps.detach().amax((-2, -1), keepdim=True).clamp_min(torch.finfo(maps.dtype).tiny)
    return (1 - overlap(scaled, masks)).sum()


def excitation(maps: Tensor) -> Tensor:
    """Return one minus the peak of the weakest of maps `[C, h, w]` (Attend-and-Excite, eq. 1)."""
    return (1 - maps.amax((-2, -1))).max()


def area_masks(concepts: Sequence[Concept], size: tuple[int, int], method: str) -> dict[int, Tensor]:
    """Return the areas of those concepts that have one, by place, as masks `[h, w]` of ones and zeros.

    A place of the maps belongs to an area that covers half of it. Raises `MethodError` for a mask of another
    shape than that of the picture, for an area that has no place, and for two areas that overlap.
    """
    covered = {i: _covered(c, size, method) for i, c in enumerate(concepts) if c.area is not None}
    for i, j in combinations(covered, 2):
        if (covered[i] + covered[j]).max() > 1 + 1e-4:
            raise MethodError(
                f"{method} keeps concepts apart, but the masks of {concepts[i].words!r} and "
                f"{concepts[j].words!r} overlap; draw them apart."
            )
    masks = {i: (share >= 0.5).float() for i, share in covered.items()}
    for i, mask in masks.items():
        if not mask.any():
            raise MethodError(
                f"{method} mask of {concepts[i].words!r} holds none of the {size[0]} x {size[1]} places of "
                "the maps; make it larger."
            )
    return masks


def _covered(concept: Concept, size: tuple[int, int], method: str) -> Tensor:
    """Return the share of each place of maps `[h, w]` that the area of a concept covers."""
    if not fits(concept.area, size):
        raise MethodError(
            f"{method} mask of {concept.words!r} has {len(concept.area)} x {len(concept.area[0])} places, "
            f"but the maps of this picture have {size[0]} x {size[1]}; give it the shape of the picture."
        )
    return coverage(concept.area, size)


def check_area(words: str, area: Area, method: str) -> None:
    """Raise `MethodError` unless an area is a box in fractions or a mask of numbers from 0 to 1."""
    rows = [area] if not area or not isinstance(area[0], Sequence) else area
    box = rows is not area
    numbers = [x for row in rows for x in row]
    fits = bool(numbers) and all(0 <= x <= 1 for x in numbers) and len({len(row) for row in rows}) == 1
    if box:
        fits = fits and len(area) == 4 and area[0] < area[2] and area[1] < area[3]
    if not fits or not any(numbers):
        raise MethodError(
            f"{method} masks are a box [left, top, right, bottom] in fractions of the picture or rows of "
            f"numbers from 0 to 1, got {_short(area)} for {words!r}; write such a box, for example "
            "[0, 0, 0.5, 1] for the left half."
        )


def _short(value: object, most: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}..."
