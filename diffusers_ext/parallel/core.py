"""CLEAR on one strip of a picture: image queries need rows of the neighbours, text queries all strips."""

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
from ..kernels.block_sparse import ops
from ..kernels.capabilities import Problem, choose
from ..kernels.geometry import Grid
from ..kernels.masks.disk import Disk
from ..kernels.merge import merge
from ..kernels.plan import BlockPlan
from ..kernels.strips import StripRecipe
from ..processors.clear import CLEAR
from ..processors.sparse import default_tiles
from .exchange import Strips, stacked, with_halo

TextMerge = Literal["exact", "mean"]


@dataclass
class Split:
    """How the picture of the current call is cut; written by the hook, read by all cores of a session."""

    group: dist.ProcessGroup
    text_merge: TextMerge
    grid: Grid = (1, 1, 1)
    strips: Strips = ()
    plans: dict[tuple, Any] = field(default_factory=dict)

    @property
    def rank(self) -> int:
        """Ours."""
        return dist.get_rank(self.group)


@dataclass(frozen=True)
class StripMethod(Method):
    """`clear` on strips, as sessions want methods; its settings are all that a report copies."""

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
class Laid:
    """Plans of the two kinds of queries; `queries` and `keys` are places in the strip and in the strip with
    its halo.
    """

    image: BlockPlan
    text: BlockPlan | None
    queries: Tensor
    keys: Tensor
    own: Tensor
    back: Tensor
    backend: str
    why: str
    density: float


class StripCore(ReportingCore):
    """Attention of one site for the queries of one strip and for the text."""

    def __init__(self, clear: CLEAR, site: Site, split: Split) -> None:
        self.clear, self.site, self.split = clear, site, split
        self.last: Laid | None = None

    def describe(self) -> dict[str, Any]:
        """What ran last, for the report; the density is that of the whole picture."""
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
        near, above = with_halo(rows, split.strips, self.clear.radius - 1, split.group)
        laid = self.last = self._laid(near.shape[1], above, text.stop - text.start, q)

        keys = torch.cat([near.flatten(1, 2).index_select(1, laid.keys), both[:, text]], dim=1)
        attend = partial(ops.attention, with_lse=True, triton=laid.backend == "triton")
        image, _ = attend(q[:, vision].index_select(1, laid.queries), *keys.chunk(2, -1), laid.image)
        image = image.index_select(1, laid.back)
        if laid.text is None:
            return image
        keys = torch.cat([both[:, vision].index_select(1, laid.own), both[:, text]], dim=1)
        keys = keys[:, : laid.text.s_kv]
        out = self._everyone(*attend(q[:, text], *keys.chunk(2, -1), laid.text))
        return torch.cat([out, image] if text.start < vision.start else [image, out], dim=1)

    def _everyone(self, out: Tensor, lse: Tensor) -> Tensor:
        """Text rows over all strips: exactly, or as the mean of the ranks' own."""
        part = torch.cat([out.float(), lse.transpose(1, 2)[..., None]], dim=-1)
        parts = stacked(part, self.split.group)
        outs, lses = parts[..., :-1], parts[..., -1].transpose(-1, -2)
        merged = outs.mean(0) if self.split.text_merge == "mean" else merge(outs, lses)[0]
        return merged.to(out.dtype)

    def _laid(self, rows: int, above: int, text: int, q: Tensor) -> Laid:
        first, last = self.split.strips[self.split.rank]
        key = self.split.grid, rows, above, last - first, text, self.site.head_dim, q.device, q.dtype
        if key not in self.split.plans:
            self.split.plans[key] = self._lay(rows, above, last - first, text, q)
        return self.split.plans[key]

    def _lay(self, rows: int, above: int, own: int, text: int, q: Tensor) -> Laid:
        _, height, width = self.split.grid
        tile, _ = default_tiles(self.split.grid)
        tiles = {"q_tile": tile, "k_tile": tile}
        recipes = [
            StripRecipe(
                Disk(self.clear.radius), (1, rows, width), text,
                **tiles, pad=filled, text_rows=False, first=above, last=above + own,
            )
            for filled in (False, True)
        ]  # fmt: skip
        recipe = min(recipes, key=lambda r: r.survey().work)
        blocks = recipe.block_q, recipe.block_k
        try:
            choice = choose(Problem(q.device, q.dtype, q.shape[-1], blocks), self.clear.backend)
            geometry.check_grid(recipe.grid)
        except ValueError as error:
            raise UnsupportedError(f"{self.clear.name}: {error}") from error
        whole = self.clear.recipe(self.split.grid, text, text_rows=False)
        # Text keys are the same everywhere and count once; the mean of the paper counts them everywhere.
        texts = replace(
            recipe, grid=(1, own, width), pad=False, text_rows=True, first=0, last=0,
            text_keys=self.split.rank == 0 or self.split.text_merge == "mean",
        )  # fmt: skip
        plans = [recipe.build(q.device), texts.build(q.device) if text else None]
        for plan in plans:
            _ = plan and plan.order
        return Laid(
            *plans,
            queries=(recipe.q_order.clamp(min=above * width) - above * width).to(q.device),
            keys=recipe.k_order.clamp(min=0).to(q.device),
            own=texts.k_order.to(q.device),
            back=geometry.inverse(_from(recipe.q_order, above * width)).to(q.device),
            backend=choice.name,
            why=f"{choice.why}; strip {self.split.rank + 1} of {len(self.split.strips)}",
            density=whole.pairs / (height * width * (height * width + text)),
        )


def _from(order: Tensor, start: int) -> Tensor:
    """An order of places from `start` on, counted from 0."""
    return torch.where(order < 0, -1, order - start)
