"""Read attention to words while a pipeline runs, without a change of what it makes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from ..core import Core, Layout, Method, ReportingCore, RunContext, Site, Slot
from ..errors import UnsupportedError
from ..kernels.probs import column_probs
from .words import Word

# (site, step, number of steps, maps [W, H, t, h, w])
Keep = Callable[[Site, int, int, Tensor], None]


@dataclass(frozen=True)
class ReadWords(Method):
    """Reads how much attention each place of the grid pays to words, at chosen sites and steps.

    The maps are those of dense attention on the queries and keys of the run, in the conditional rows; the
    softmax goes over all keys. A word of several tokens has their mean. Passes that guidance adds are left
    out. Where attention reads several texts, it is the first, which is the prompt.
    """

    name: ClassVar[str] = "maps"
    slots: ClassVar[frozenset[Slot]] = frozenset({Slot.OBSERVE})
    order_free: ClassVar[bool] = True  # grid tokens are put back in raster order

    sites: frozenset[Site]
    words: tuple[Word, ...]
    steps: tuple[int, ...] | None = None  # None: all
    keep: Keep = field(default=lambda *_: None, compare=False)

    def select(self, sites: Sequence[Site]) -> list[Site]:
        return [site for site in sites if site in self.sites]

    def bind(self, site: Site, run: RunContext, inner: Core) -> Core:
        return _ReadingCore(self, site, run, inner)


class _ReadingCore(ReportingCore):
    """Reads the first attention of a site in each call of the denoiser, then runs the core below."""

    def __init__(self, method: ReadWords, site: Site, run: RunContext, inner: Core) -> None:
        self.method, self.site, self.run, self.inner = method, site, run, inner
        self.waiting = False

    def begin_call(self, like: Tensor) -> None:
        steps = self.method.steps
        self.waiting = self.run.pass_ != "uncond" and (steps is None or self.run.step in steps)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, layout: Layout | None) -> Tensor:
        if self.waiting and not self.run.perturbed and not self.run.gradient_pass:
            self._read(q, k, mask, layout)
        return self.inner(q, k, v, mask, layout)

    @torch.compiler.disable  # what is kept belongs to no graph
    def _read(self, q: Tensor, k: Tensor, mask: Tensor | None, layout: Layout | None) -> None:
        self.waiting = False
        if layout is None or not layout.raster:
            raise UnsupportedError(
                f"maps need the tokens of {self.site.path} to be the rows of one grid, which they are not in "
                "this call; use a pipeline without pictures among its tokens, and name other layers."
            )
        rows = slice(len(q) // 2, None) if self.run.pass_ == "both" else slice(None)
        grid = q[rows, layout.vision]
        if mask is not None:
            mask = mask[rows] if len(mask) == len(q) else mask
            mask = mask[..., layout.vision, :] if mask.shape[-2] == q.shape[1] else mask
        with torch.no_grad():
            maps = word_maps(grid, k[rows], mask, layout, self.site.kind, self.method.words)
            if self.run.order is not None:
                maps = maps.index_select(-1, self.run.order.places.to(maps.device))
        self.method.keep(self.site, self.run.step, self.run.steps, maps.unflatten(-1, layout.grid))


def word_maps(
    q: Tensor, k: Tensor, mask: Tensor | None, layout: Layout, kind: str, words: Sequence[Word]
) -> Tensor:
    """Return the attention of grid queries to words `[W, H, N]`, the mean over rows, in fp32 or finer.

    `q [B, N, H, D]` are those of the grid, `k [B, S, H, D]` are all keys. Only the columns of the words are
    computed. Raises `UnsupportedError` if the text among the keys is shorter than the prompt.
    """
    text = layout.text_keys(kind)
    columns = sorted({column for word in words for column in word.columns})
    if text is None or columns[-1] >= text.stop - text.start:
        raise UnsupportedError(
            "maps need the tokens of the prompt among the keys of attention, but this call has fewer; pass "
            "the prompt as text, and no prompt_embeds."
        )
    places = torch.tensor(columns, device=k.device) + text.start
    probs = column_probs(q, k, places, mask).mean(0)  # [H, N, C]
    index = {column: i for i, column in enumerate(columns)}
    return torch.stack([probs[..., [index[c] for c in word.columns]].mean(-1) for word in words])
