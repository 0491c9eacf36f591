"""Run CLEAR on one strip of a picture: image queries need rows of the neighbours, text queries all strips."""

import math
from collections.abc import Sequence
from dataclasses import InitVar, dataclass, field, replace
from functools import partial
from typing import Any, ClassVar, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from ..core import Core, Layout, Method, ReportingCore, RunContext, Site, Slot
from ..errors import UnsupportedError
from ..kernels import geometry
from ..kernels.block_sparse import api
from ..kernels.block_sparse.capabilities import Request, choose
from ..kernels.geometry import Grid
from ..kernels.masks.disk import Disk
from ..kernels.merge import merge
from ..kernels.plan.plan import BlockPlan
from ..kernels.plan.spec import RulePlanSpec
from ..processors.clear import CLEAR
from ..processors.sparse.method import default_tiles
from .exchange import Strips, stacked, with_halo
from .strips import StripPlanSpec

TextMerge = Literal["exact", "mean"]


@dataclass
class Split:
    """The strips of the picture of the current call; the hook writes them, and cores read them."""

    group: dist.ProcessGroup
    text_merge: TextMerge
    grid: Grid = (1, 1, 1)
    strips: Strips = ()
    plans: dict[tuple, Any] = field(default_factory=dict)

    @property
    def rank(self) -> int:
        """The rank of this process."""
        return dist.get_rank(self.group)


@dataclass(frozen=True)
class StripMethod(Method):
    """The method `clear` on strips, as sessions take methods; a report copies nothing but its settings."""

    clear: CLEAR
    split: InitVar[Split]
    name: ClassVar[str] = "clear"
    slots: ClassVar[frozenset[Slot]] = frozenset({Slot.CORE})

    def __post_init__(self, split: Split) -> None:
        object.__setattr__(self, "_split", split)

    def select(self, sites: Sequence[Site]) -> list[Site]:
        return self.clear.select(sites)

    def why_not(self, site: Site, layout: Layout | None) -> str | None:
        return self.clear.why_not(site, layout)

    def bind(self, site: Site, run: RunContext, inner: Core) -> Core:
        return StripCore(self.clear, site, self._split)


@dataclass(frozen=True, eq=False)
class PlacedStrip:
    """Plans of the two kinds of queries, with the positions of their tokens.

    `queries` are positions in the strip, `keys` in the strip with its halo.
    """

    image: BlockPlan
    text: BlockPlan | None
    queries: Tensor
    keys: Tensor
    own: Tensor
    inverse: Tensor
    backend: str
    why: str
    density: float


class StripCore(ReportingCore):
    """Attention of one site for the queries of one strip and for the text."""

    def __init__(self, clear: CLEAR, site: Site, split: Split) -> None:
        self.clear, self.site, self.split = clear, site, split
        self.last: PlacedStrip | None = None

    def describe(self) -> dict[str, Any]:
        """Report what ran last; the density is that of the full picture."""
        if self.last is None:
            return {"why": "not called yet"}
        facts = {name: getattr(self.last, name) for name in ("backend", "why", "density")}
        return facts | {"full_share": self.last.image.full_share}

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, layout: Layout | None) -> Tensor:
        if mask is not None:
            raise UnsupportedError(
                f"clear decides itself who sees whom, but {self.site.path} came with an attention mask; "
                "leave the mask out."
            )
        split, text, vision = self.split, layout.text, layout.vision
        _, height, width = split.grid
        first, last = split.strips[split.rank]
        joint = height * width + text.stop - text.start
        if q.shape[1] != (last - first) * width + text.stop - text.start:
            raise UnsupportedError(
                f"clear expects {last - first} rows of {width} tokens and {text.stop - text.start} text "
                f"tokens at {self.site.path}, got {q.shape[1]}; undo what else lengthens the sequence."
            )
        if self.clear.train_tokens is not None and joint > self.clear.train_tokens:
            q = q * math.sqrt(math.log(joint) / math.log(self.clear.train_tokens))
        both = torch.cat([k, v], dim=-1)
        rows = both[:, vision].unflatten(1, (last - first, width))
        around, above = with_halo(rows, split.strips, self.clear.radius - 1, split.group)
        placed = self.last = self._plans_of(around.shape[1], above, text.stop - text.start, q)

        keys = torch.cat([around.flatten(1, 2).index_select(1, placed.keys), both[:, text]], dim=1)
        attend = partial(api.attention, with_lse=True, triton=placed.backend == "triton")
        image, _ = attend(q[:, vision].index_select(1, placed.queries), *keys.chunk(2, -1), placed.image)
        image = image.index_select(1, placed.inverse)
        if placed.text is None:
            return image
        keys = torch.cat([both[:, vision].index_select(1, placed.own), both[:, text]], dim=1)
        keys = keys[:, : placed.text.s_kv]
        out = self._everyone(*attend(q[:, text], *keys.chunk(2, -1), placed.text))
        return torch.cat([out, image] if text.start < vision.start else [image, out], dim=1)

    def _everyone(self, out: Tensor, lse: Tensor) -> Tensor:
        """Join text rows over all strips: exactly, or as the mean over ranks."""
        part = torch.cat([out.float(), lse.transpose(1, 2)[..., None]], dim=-1)
        parts = stacked(part, self.split.group)
        outs, lses = parts[..., :-1], parts[..., -1].transpose(-1, -2)
        merged = outs.mean(0) if self.split.text_merge == "mean" else merge(outs, lses)[0]
        return merged.to(out.dtype)

    def _plans_of(self, rows: int, above: int, text: int, q: Tensor) -> PlacedStrip:
        first, last = self.split.strips[self.split.rank]
        key = self.split.grid, rows, above, last - first, text, self.site.head_dim, q.device, q.dtype
        if key not in self.split.plans:
            self.split.plans[key] = self._place(rows, above, last - first, text, q)
        return self.split.plans[key]

    def _place(self, rows: int, above: int, own: int, text: int, q: Tensor) -> PlacedStrip:
        _, height, width = self.split.grid
        tile, _ = default_tiles(self.split.grid)
        tiles = {"q_tile": tile, "k_tile": tile}
        specs = [
            StripPlanSpec(
                Disk(self.clear.radius), (1, rows, width), text,
                **tiles, pad=filled, text_rows=False, first=above, last=above + own,
            )
            for filled in (False, True)
        ]  # fmt: skip
        spec = min(specs, key=lambda s: s.stats.work)
        blocks = spec.block_q, spec.block_k
        try:
            choice = choose(Request(q.device, q.dtype, q.shape[-1], blocks), self.clear.backend)
            geometry.check_grid(spec.grid)
        except ValueError as error:
            raise UnsupportedError(f"{self.clear.name}: {error}") from error
        picture = RulePlanSpec(spec.rule, self.split.grid, text, text_rows=False)  # for its pairs
        # Text keys are the same on all ranks and count once; the mean of the paper counts them on each rank.
        texts = replace(
            spec, grid=(1, own, width), pad=False, text_rows=True, first=0, last=0,
            text_keys=self.split.rank == 0 or self.split.text_merge == "mean",
        )  # fmt: skip
        plans = [spec.build(q.device), texts.build(q.device) if text else None]
        for plan in plans:
            _ = plan and plan.order
        return PlacedStrip(
            *plans,
            queries=(spec.q_order.clamp(min=above * width) - above * width).to(q.device),
            keys=spec.k_order.clamp(min=0).to(q.device),
            own=texts.k_order.to(q.device),
            inverse=geometry.inverse(_from(spec.q_order, above * width)).to(q.device),
            backend=choice.name,
            why=f"{choice.why}; strip {self.split.rank + 1} of {len(self.split.strips)}",
            density=picture.pairs / (height * width * (height * width + text)),
        )


def _from(order: Tensor, start: int) -> Tensor:
    """Shift an order of places that begin at `start` to begin at 0."""
    return torch.where(order < 0, -1, order - start)
