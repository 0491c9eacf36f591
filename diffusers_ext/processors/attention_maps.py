"""Keep maps of cross-attention while a pass for gradients runs, and end it when nothing more is needed."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from ..calls import PassEnded
from ..core import Core, Layout, ReportingCore, RunContext, Site
from ..kernels.probs import column_probs


class MapCore(ReportingCore):
    """Keeps the attention to all text tokens, averaged over heads, while a pass for gradients runs.

    The output is that of the core below. The last core of a pass ends it, unless its block is compiled.
    """

    def __init__(self, inner: Core, run: RunContext, idle: Callable[[RunContext], str | None]) -> None:
        self.inner = inner
        self.run = run
        self.last = False  # nothing behind this site is needed
        self.maps: list[Tensor] = []  # [B, h, w, L], one for each text that is read as keys
        self._idle = idle

    def idle(self) -> str | None:
        return self._idle(self.run)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, layout: Layout | None) -> Tensor:
        if not self.run.gradient_pass:
            return self.inner(q, k, v, mask, layout)
        _, h, w = layout.grid
        self.maps.append(column_probs(q, k, layout.text_keys("cross"), mask).mean(1).unflatten(1, (h, w)))
        if self.last and not torch.compiler.is_compiling():
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
