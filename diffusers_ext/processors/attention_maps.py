"""Keep maps of cross-attention while a pass for gradients runs, and end it when nothing more is needed."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from ..calls import PassEnded
from ..core import Core, Layout, ReportingCore, RunContext, Site
from ..kernels.probs import column_probs


class MapCore(ReportingCore):
    """Keeps the attention to all keys, averaged over heads, while a pass for gradients runs.

    The output is that of the core below. The last core of a pass ends it, unless its block is compiled. It
    does not read the layout, which would tie a compiled graph to one size of picture.
    """

    def __init__(self, inner: Core, run: RunContext, idle: Callable[[RunContext], str | None]) -> None:
        self.inner = inner
        self.run = run
        self.last = False  # nothing behind this site is needed
        self.maps: list[Tensor] = []  # [B, N, S], one for each text that is read as keys
        self._idle = idle

    def idle(self) -> str | None:
        return self._idle(self.run)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, layout: Layout | None) -> Tensor:
        if not self.run.gradient_pass:
            return self.inner(q, k, v, mask, layout)
        self.maps.append(column_probs(q, k, slice(None), mask).mean(1))
        if not torch.compiler.is_compiling() and self.last:  # a graph would be made for each value of `last`
            raise PassEnded
        return self.inner(q, k, v, mask, layout)


@contextmanager
def keeping(cores: Mapping[Site, MapCore]) -> Iterator[None]:
    """Let the cores keep maps until the last of them has one, and forget them afterwards."""
    final = max(cores, key=lambda site: site.index)
    for site, core in cores.items():
        core.last, core.maps = site is final, []
    try:
        yield
    finally:
        for core in cores.values():
            core.maps = []


def attention_to_text(cores: Mapping[Site, MapCore], layout: Layout) -> Tensor:
    """Return what the cores have kept, averaged over layers: attention to text tokens `[B, h, w, L]`.

    All sites have the same grid; `layout` is that of the latents.
    """
    _, h, w = layout.grid
    for _ in range(next(iter(cores)).halvings):
        h, w = (h + 1) // 2, (w + 1) // 2
    mean = torch.stack([each for core in cores.values() for each in core.maps]).mean(0)
    return mean[..., layout.text_keys("cross")].unflatten(1, (h, w))
