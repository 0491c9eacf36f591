"""Keep the output of attention, before the projection out, so that two models can be compared by layers."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from ..core import Core, Layout, Method, RunContext, Site, Slot


@dataclass(frozen=True)
class RecordAttention(Method):
    """Records the output of every `every`-th attention module, `[B, N, H, D]`, by name in `kept`.

    Text rows are included. Each call of the model replaces the records of the one before.
    """

    name: ClassVar[str] = "record"
    slots: ClassVar[frozenset[Slot]] = frozenset({Slot.OBSERVE})
    reads_layout: ClassVar[bool] = False

    every: int = 1
    kept: dict[str, Tensor] = field(default_factory=dict, compare=False)

    def select(self, sites: Sequence[Site]) -> list[Site]:
        return [site for site in sites if site.kind != "cross"][:: self.every]

    def bind(self, site: Site, run: RunContext, inner: Core) -> Core:
        def core(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, layout: Layout | None) -> Tensor:
            out = self.kept[site.name] = inner(q, k, v, mask, layout)
            return out

        return core
