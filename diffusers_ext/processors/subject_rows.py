"""Find subjects in a call with references and a scene: their rows, and their tokens on each grid."""

import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..core import Layout, RunContext, Site
from ..errors import MethodError, UnsupportedError
from ..kernels import subjects
from .reference_bank import ReferenceBank


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a call: `branches` of guidance, with the references of each first and its scene last."""

    branches: int
    per_branch: int

    @property
    def scene(self) -> slice:
        """The row of the scene in each branch."""
        return slice(self.per_branch - 1, None, self.per_branch)

    def reference(self, number: int) -> slice:
        """Return the row of a reference in each branch."""
        return slice(number, None, self.per_branch)


@dataclass(frozen=True, slots=True, eq=False)
class SubjectTokens:
    """A subject on one grid; all tensors hold numbers of tokens of the sequence.

    `scene` are its tokens in the scene, and `beside` those that they see there. `reference` are its tokens in
    its reference. `taken` counts those that are seen, by their place in `reference`. `copies [n]` is the bias
    of each, with the logarithm of how often it is seen, `None` if all are 0. `distance [n, 2]` says how many
    rows and columns each moves, `None` if they stay. In the current step `looking` see the reference and
    `resting` do not.
    """

    number: int
    scene: Tensor
    beside: Tensor
    reference: Tensor
    taken: Tensor
    copies: Tensor | None
    distance: Tensor | None
    looking: Tensor
    resting: Tensor


class SubjectCall:
    """Holds what the cores of one method share: the current call, and its subjects on each grid."""

    def __init__(self, method: Any, run: RunContext) -> None:
        self.method = method
        self.run = run
        self.sites: list[Site] = []
        self.bank: ReferenceBank | None = None
        self.place = -1  # counts calls of the denoiser, for the bank
        self._mutual: set[str] | None = None
        self._grids: dict[Any, tuple[SubjectTokens, ...]] = {}
        self._drawn: dict[Any, tuple[int | None, tuple[SubjectTokens, ...]]] = {}
        self._warned = False

    # rows ---------------------------------------------------------------------------------------------------

    @property
    def per_branch(self) -> int:
        """The rows of a branch: all references and the scene, unless a bank holds or takes the references."""
        if self.bank is None:
            return self.method.subjects + 1
        return self.method.subjects if self.bank.writing else 1

    @property
    def has_scene(self) -> bool:
        """Return whether the call has a scene, which a run of the references alone has not."""
        return self.bank is None or not self.bank.writing

    def rows(self, batch: int) -> Rows:
        """Return the rows of an attention call; the extra pass of guidance has one branch only."""
        return Rows(batch // self.per_branch, self.per_branch)

    def begin(self, site: Site, like: Tensor) -> None:
        """Check a call before it runs, and count it. The first site that was bound does so for all."""
        if site is not self.sites[0]:
            return
        self.place += 1
        batch, branches = len(like), 2 if self.run.pass_ == "both" else 1
        name, expected = self.method.name, self.per_branch
        if self.run.rows is not None or batch != branches * expected:
            each = " in each branch of guidance" if branches == 2 else ""
            found = batch / branches
            found = f"{found:g}" if self.run.rows is None else f"{found:g} candidates of a search"
            raise MethodError(
                f"{name} takes the prompts of its {self.method.subjects} references and then of one scene in "
                f"one call, a picture each, so {expected} rows{each}, got {found}; call the pipeline with "
                "such a list, or use `diffusers-ext story` or dx.StoryPipeline, which do."
            )
        layout = self.run.layout
        if layout is None or layout.grid[0] != 1 or not layout.raster:
            raise UnsupportedError(
                f"{name} needs the tokens of one picture in the order of its rows, got a call for "
                f"{'a video' if layout and layout.raster else 'tokens without such an order'}; use an image "
                "pipeline."
            )
        if self.bank is not None and self.bank.writing and self.place == 0:
            calls = self.method.changing(self.run, self.bank.calls)
            self.bank.check(self._bytes(like) * branches, calls)

    def _bytes(self, like: Tensor) -> int:
        """Return the size of the keys and values of all references, in one branch of one call."""
        total = 0
        for site in self.sites:
            if site.kind != "cross" and self.sees_references(site):
                tokens = sum(len(s.reference) for s in self.tokens(site, like.device))
                total += 2 * tokens * site.heads * site.head_dim
        return total * like.element_size()

    # tokens -------------------------------------------------------------------------------------------------

    def sees_references(self, site: Site) -> bool:
        """Return whether scene tokens see references at a site."""
        if self._mutual is None:
            self._mutual = self.method.mutual(self.sites)
        return site.path in self._mutual

    def tokens(self, site: Site, device: torch.device) -> tuple[SubjectTokens, ...]:
        """Return the subjects at a site in the current step."""
        layout = self.run.layout
        offset = layout.vision.start if site.kind == "joint" else 0
        text = layout.text if site.kind == "joint" else slice(0, 0)
        size = at_level(layout, site)
        key = size, offset, (text.start, text.stop), site.rotary is not None, device
        if key not in self._grids:
            self._grids[key] = self._on_grid(size, offset, text, site.rotary is not None, device)
        step, drawn = self._drawn.get(key, (-1, ()))
        if step != self.run.step or not drawn:
            drawn = tuple(self._drop(subject, size, offset) for subject in self._grids[key])
            self._drawn[key] = self.run.step, drawn
        return drawn

    def masks(self, size: tuple[int, int]) -> tuple[list[Tensor], list[Tensor]]:
        """Return the masks `[h, w]` of all references and of all subjects in the scene."""
        references = [_only(self._covered(a, size, "reference")) for a in self.method.reference_masks]
        given = self.method.scene_masks if self.has_scene else [None] * self.method.subjects
        covered = [torch.zeros(size) if a is None else self._covered(a, size, "scene") for a in given]
        scene = subjects.on_grid(covered)
        self._warn_of_overlaps(covered)
        return references, scene

    def _covered(self, area: subjects.Area, size: tuple[int, int], kind: str) -> Tensor:
        if not subjects.fits(area, size):
            raise MethodError(
                f"{self.method.name} {kind} mask has {len(area)} x {len(area[0])} places, but the grid of "
                f"this picture has {size[0]} x {size[1]}; give masks the shape of the picture."
            )
        return subjects.coverage(area, size)

    def _warn_of_overlaps(self, covered: Sequence[Tensor]) -> None:
        """Warn once in a session of places that two subjects cover more than in half."""
        claims = torch.stack([c >= subjects.COVERED for c in covered]).sum(0)
        if not self._warned and bool(((claims > 1) & (torch.stack(list(covered)).sum(0) > 1.01)).any()):
            self._warned = True
            warnings.warn(
                f"diffusers_ext: {self.method.name}: scene masks overlap; what two subjects share belongs to "
                "the smaller one.",
                stacklevel=2,
            )

    def _on_grid(
        self, size: tuple[int, int], offset: int, text: slice, turns: bool, device: torch.device
    ) -> tuple[SubjectTokens, ...]:
        references, scene = self.masks(size)
        words = torch.arange(text.start, text.stop)
        found = []
        for number, (source, target) in enumerate(zip(references, scene, strict=True)):
            others = torch.zeros_like(target)
            for other in (m for i, m in enumerate(scene) if i != number and self.method.isolation):
                others |= other
            own, beside = _places(target) + offset, torch.cat([words, _places(~others) + offset])
            taken, copies, distance = self._taken(source, target, turns)
            if copies is not None and device.type == "mps":  # which has no fp64
                copies = copies.float()
            tensors = own, beside, _places(source) + offset, taken, copies, distance, own, own[:0]
            found.append(SubjectTokens(number, *(None if x is None else x.to(device) for x in tensors)))
        return tuple(found)

    def _taken(
        self, source: Tensor, target: Tensor, turns: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return which tokens of a reference are seen, counted in its mask, the bias and the move of each."""
        kind = self.method.reposition
        rank = source.flatten().cumsum(0) - 1
        copies, distance = None, None
        if not target.any() or kind == "none":
            taken = torch.arange(int(source.sum()))
        elif kind == "warp" or turns:
            come_from, come_to = subjects.moved(source, target)
            taken, columns = rank[come_from], source.shape[1]
            if turns:
                rows = come_to // columns - come_from // columns
                distance = torch.stack([rows, come_to % columns - come_from % columns], 1)
        else:
            often = subjects.multiplicity(source, target)
            taken = rank[often > 0]
            copies = often[often > 0].double().log()
        bias = torch.zeros(len(taken), dtype=torch.float64) if copies is None else copies
        bias = bias + self.method.ref_bias
        return taken, bias if bias.any() else None, distance

    def _drop(self, subject: SubjectTokens, size: tuple[int, int], offset: int) -> SubjectTokens:
        """Draw which tokens look at the reference in this step.

        At a share of 1 none do. Below it all do if the draw leaves none, as with subjects of a few tokens.
        """
        share = self.method.mask_dropout
        if not share:
            return subject
        if share == 1:
            return replace(subject, looking=subject.scene[:0], resting=subject.scene)
        # One map for all subjects, so that their order does not matter, drawn alike in each layer of a grid.
        seed = zlib.crc32(f"{self.method.seed} {self.run.step} {size}".encode())
        drawn = torch.rand(size[0] * size[1], generator=torch.Generator().manual_seed(seed))
        looks = drawn.to(subject.scene.device)[subject.scene - offset] >= share
        if not looks.any():
            return subject
        return replace(subject, looking=subject.scene[looks], resting=subject.scene[~looks])


def at_level(layout: Layout, site: Site) -> tuple[int, int]:
    """Return the grid `(h, w)` of a site, from that of the latents; each halving rounds up."""
    _, h, w = layout.grid
    for _ in range(site.halvings):
        h, w = (h + 1) // 2, (w + 1) // 2
    return h, w


def _only(covered: Tensor) -> Tensor:
    return subjects.on_grid([covered])[0]


def _places(mask: Tensor) -> Tensor:
    return mask.flatten().nonzero().flatten()
