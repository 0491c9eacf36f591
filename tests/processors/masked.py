"""Dense attention with an explicit mask of the grid: what a sparse method has to equal."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusers_ext.core import Core, Layout, Method, RunContext, Site, Slot


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
class Instead(Method):
    """A method that puts `attend` in place of self- and joint attention: an oracle for complete models."""

    name: ClassVar[str] = "instead"
    slots: ClassVar[frozenset[Slot]] = frozenset({Slot.CORE})

    attend: Core

    def select(self, sites):
        return [s for s in sites if s.kind != "cross"]

    def why_not(self, site: Site, layout: Layout | None) -> None:
        return None

    def bind(self, site: Site, run: RunContext, inner: Core) -> Core:
        return self.attend


def by_mask(mask: Callable[[tuple[int, int, int]], Tensor]) -> Instead:
    """Dense attention with the mask of a grid, which is made once."""
    mask = functools.cache(mask)
    return Instead(lambda q, k, v, seen, layout: attention(q, k, v, mask(layout.grid), layout, seen))
