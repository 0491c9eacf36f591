"""The cores of SoftPAG: in a perturbed pass, chosen heads give the output of another attention map.

Each core computes `lerp(O, O', u)` for its `O'`, which is exact: `((1-u) A + u A') V = (1-u) O + u O'`. None
of them has a map in memory. Identity, shuffling and temperature take any core below. The others look at
queries and keys themselves, as dense attention does.
"""

import random
from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor

from ..core import Core, Layout, RunContext, Site
from ..kernels.perturbed import beside_text, mean_query, one_query, part_of, strongest
from ..kernels.scores import at, own_scores, scores_at

Scope = Literal["image_rows", "image_block", "all"]


class PerturbedCore(ABC):
    """Lerps the chosen heads toward their perturbed output while `run.perturbed` is set."""

    def __init__(self, site: Site, run: RunContext, inner: Core, scope: Scope) -> None:
        self.site = site
        self.run = run
        self.inner = inner
        self.scope = scope
        self.weight: Tensor | None = None  # [B, 1 or S, H, 1]: strength by head, 0 on text rows
        self.picked: Tensor | None = None  # head numbers with a strength above 0 in any row

    @property
    def image_only(self) -> bool:
        """True if weights must keep text rows of a joint sequence as they are."""
        return self.site.kind == "joint" and self.scope == "image_rows"

    def begin_pass(self, strength: Tensor, like: Tensor) -> None:
        """Prepare for a perturbed pass with `strength [B, H]`, on the device of `like`.

        What depends on the number of tokens is a tensor: a number would cost a compiled graph for each size.
        """
        self.picked = strength.any(dim=0).nonzero().flatten().to(like.device)
        self.weight = strength[:, None, :, None].to(device=like.device, dtype=like.dtype)
        if self.image_only:
            self.weight = self.weight * image_rows(self.run.layout, like)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, layout: Layout | None) -> Tensor:
        out = self.inner(q, k, v, mask, layout)
        return self.perturbed(out, q, k, v, mask, layout) if self.run.perturbed else out

    @abstractmethod
    def perturbed(
        self, out: Tensor, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, layout: Layout | None
    ) -> Tensor:
        """Return the output of a perturbed pass, given that of the plain one, `[B, N, H, D]`."""


class Shuffled(PerturbedCore):
    """Moves the outputs of image tokens to other places, as token perturbation guidance moves the tokens.

    The permutation of a site and a step depends on the seed alone, and is the same for all rows and heads.
    Source: Rajabi et al., "Token Perturbation Guidance" (arXiv 2506.10036), whose code moves the residual
    stream of a block, too.
    """

    def __init__(self, site: Site, run: RunContext, inner: Core, scope: Scope, seed: int) -> None:
        super().__init__(site, run, inner, scope)
        self.seed = seed
        self.places: Tensor | None = None

    def begin_pass(self, strength: Tensor, like: Tensor) -> None:
        super().begin_pass(strength, like)
        self.places = shuffled(self.site, self.run, self.seed).to(like.device)

    def perturbed(
        self, out: Tensor, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, layout: Layout | None
    ) -> Tensor:
        return _lerp(out, out.index_select(1, self.places), self.weight)


class Tempered(PerturbedCore):
    """Divides logits by a temperature: the attention below runs again, with its keys divided."""

    def __init__(self, site: Site, run: RunContext, inner: Core, scope: Scope, temperature: float) -> None:
        super().__init__(site, run, inner, scope)
        self.temperature = temperature

    def perturbed(
        self, out: Tensor, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, layout: Layout | None
    ) -> Tensor:
        return _lerp(out, self.inner(q, k / self.temperature, v, mask, layout), self.weight)


class _ByHead(PerturbedCore):
    """Computes the perturbed output for chosen heads only."""

    def perturbed(
        self, out: Tensor, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, layout: Layout | None
    ) -> Tensor:
        q, k, v, some, weight = (x.index_select(2, self.picked) for x in (q, k, v, out, self.weight))
        if mask is not None and mask.shape[1] > 1:
            mask = mask.index_select(1, self.picked)
        return out.index_copy(2, self.picked, self.moved(some, weight, q, k, v, mask, layout))

    def moved(
        self,
        out: Tensor,
        weight: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None,
        layout: Layout | None,
    ) -> Tensor:
        """Return the output of the chosen heads, given the plain one, `[B, N, h, D]`."""
        return _lerp(out, self.other(q, k, v, mask, layout), weight)

    @abstractmethod
    def other(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, layout: Layout | None) -> Tensor:
        """Return the output of the other map, `[B, 1 or N, h, D]`."""


class Uniform(_ByHead):
    """The map is uniform: every key counts the same. That is a query of zeros."""

    def other(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, layout: Layout | None) -> Tensor:
        return one_query(torch.zeros_like(q[:, :1]), k, v, mask)


class SegmentMean(_ByHead):
    """Every row of the map is that of the mean query, the limit of a wide blur (SEG, arXiv 2408.00760)."""

    def __init__(self, site: Site, run: RunContext, inner: Core, scope: Scope) -> None:
        super().__init__(site, run, inner, scope)
        self.rows: Tensor | None = None  # [1, S, 1, 1]: which queries have a part in the mean; None: all

    def begin_pass(self, strength: Tensor, like: Tensor) -> None:
        super().begin_pass(strength, like)
        self.rows = image_rows(self.run.layout, like) if self.image_only else None

    def other(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, layout: Layout | None) -> Tensor:
        rows = self.rows
        if rows is None and mask is not None and layout is not None and layout.masked_text:
            rows = mask.transpose(1, 3)  # padding of a prompt has no part in it
        return one_query(mean_query(q, rows), k, v, mask)


class _OneKey(_ByHead):
    """Each row of the map has all its weight on one key; with `image_block`, an image row keeps the text."""

    def moved(
        self,
        out: Tensor,
        weight: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None,
        layout: Layout | None,
    ) -> Tensor:
        if not self.keeps_text(layout):
            return super().moved(out, weight, q, k, v, mask, layout)
        rows, text = layout.vision, layout.text
        own, value = self.key(*(x[:, rows] for x in (q, k, v)), part_of(mask, rows, rows))
        other = beside_text(own, value, q, k, v, mask, rows, text)
        return torch.slice_scatter(out, _lerp(out[:, rows], other, weight), 1, rows.start, rows.stop)

    def keeps_text(self, layout: Layout | None) -> bool:
        """Return whether image rows also see a text that is in the sequence."""
        return self.scope == "image_block" and layout is not None and layout.text.start < layout.text.stop

    def other(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, layout: Layout | None) -> Tensor:
        return self.key(q, k, v, mask)[1]

    @abstractmethod
    def key(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the logit `[B, h, N]` and the value `[B, N, h, D]` of the one key of each query."""


class Identity(_OneKey):
    """The map is the identity: each token sees only itself."""

    def perturbed(
        self, out: Tensor, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, layout: Layout | None
    ) -> Tensor:
        if self.keeps_text(layout):
            return super().perturbed(out, q, k, v, mask, layout)
        return _lerp(out, v, self.weight)  # for all heads, which copies nothing

    def key(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        return own_scores(q, k, mask), v


class Strongest(_OneKey):
    """Each token sees the key that has its largest weight."""

    def key(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        best = strongest(q, k, mask)
        return scores_at(q, k, mask, best), at(v, best)


def _lerp(out: Tensor, other: Tensor, weight: Tensor) -> Tensor:
    """Lerp in the dtype of `out`, which under autocast is not that of the call of the denoiser."""
    return torch.lerp(out, other.to(out.dtype), weight.to(out.dtype))


def image_rows(layout: Layout, like: Tensor) -> Tensor:
    """Return `[1, S, 1, 1]`: 1 on image rows, 0 on text rows of a joint sequence."""
    rows = torch.zeros(max(layout.vision.stop, layout.text.stop), device=like.device, dtype=like.dtype)
    rows[layout.vision] = 1
    return rows[None, :, None, None]


def shuffled(site: Site, run: RunContext, seed: int) -> Tensor:
    """Return a permutation `int64 [S]` of the tokens of a site that moves image tokens only.

    It depends on the seed, the step and the name of the site.
    """
    seeds = random.Random(f"{seed} {run.step or 0} {site.name}")  # the same on all machines
    generator = torch.Generator().manual_seed(seeds.getrandbits(63))
    layout = run.layout
    if site.kind == "joint":
        count, image = max(layout.vision.stop, layout.text.stop), layout.vision
    else:
        t, h, w = layout.grid
        count, image = t * -(-h // 2**site.halvings) * -(-w // 2**site.halvings), slice(None)
    places = torch.arange(count)
    places[image] = places[image][torch.randperm(len(places[image]), generator=generator)]
    return places
