"""Dense attention with an explicit mask of the grid: what a sparse method has to equal."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusers_ext.core import Layout, RunContext, Site, Slot


def attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor, layout: Layout, seen: Tensor | None = None
) -> Tensor:
    """`q, k, v [B, S, H, D]`, `mask [N, N]` among the grid tokens; text sees all and is seen by all, but for
    keys that `seen [B, 1, 1, S]` hides.
    """
    whole = torch.ones(q.shape[1], k.shape[1], dtype=torch.bool)
    whole[layout.vision, layout.vision] = mask
    whole = whole if seen is None else whole & seen
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=whole).transpose(1, 2)


@dataclass(frozen=True)
class Masked:
    """A method for whole pipelines: `mask` makes the mask of a grid."""

    name: ClassVar[str] = "masked"
    slots: ClassVar[frozenset[Slot]] = frozenset({Slot.CORE})

    mask: Callable[[tuple[int, int, int]], Tensor]

    def __post_init__(self) -> None:
        object.__setattr__(self, "mask", functools.cache(self.mask))

    def select(self, sites):
        return [s for s in sites if s.kind != "cross"]

    def why_not(self, site: Site, layout: Layout | None) -> None:
        return None

    def bind(self, site: Site, run: RunContext, inner):
        return lambda q, k, v, mask, layout: attention(q, k, v, self.mask(layout.grid), layout, mask)
