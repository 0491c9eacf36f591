"""SoftPAG: guidance away from a pass in which chosen attention heads look only at themselves.

Paper: Ahn et al., "Where and How to Perturb" (arXiv 2506.10978), eq. 5-7. With `A' = (1-u) A + u I` the
perturbed head output is `lerp(O, V, u)`, exact for any attention core and without a map in memory. PAG is `u
= 1`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..core import Core, Guidance, Layout, RunContext, Site, Slot, nearest_names, no_steps, step_window
from ..errors import MethodError, UnsupportedError
from ..kernels.image_block import image_block
from ..settings.fields import fit_fields, setting
from . import head_sets
from .head_set import HeadSet, kept
from .head_sets import Heads


@dataclass(frozen=True)
class SoftPAG(Guidance):
    """Perturbed-attention guidance on chosen heads: `guided + scale * (cond - perturbed)`.

    With the pipeline's classifier-free guidance the result is `u + s(c - u) + scale (c - p)`, without it `c +
    scale (c - p)`. The perturbed pass `p` is one more pass per step, on the conditional rows only. The
    defaults are gentle and not tuned to any model: `dx.preset(pipe, "softpag")` has the settings that are
    known for a pipeline. Raises `MethodError` for settings out of range, unknown module paths and heads.
    """

    name: ClassVar[str] = "softpag"
    slots: ClassVar[frozenset[Slot]] = frozenset({Slot.OUTPUT, Slot.DENOISER})
    order_free: ClassVar[bool] = True  # image tokens differ from text, not from each other

    heads: Heads | Sequence[Heads] | str | None = setting(
        None,
        "module path -> head numbers",
        "heads to perturb, or the JSON file of a HeadSet; a list gives one set per image of the batch; none: "
        "the middle layer, all heads",
        file=True,
    )
    # PAG takes 3 on U-Nets. On shapes-sd3 a scale of 3 halved the share of right pictures (23 % against 47 %
    # of 30), and 1 did no harm (57 %). The example of diffusers for SD3 takes 0.7. Presets suit their models.
    scale: float = setting(1.0, "guidance scale", "weight w of cond - perturbed", bounds=(0.0, 20.0))
    strength: float | Sequence[float] | None = setting(
        None,
        "fraction",
        "u in A' = (1-u)A + uI; a list gives one per image; none: 0.5 from six heads on, else 1",
        bounds=(0.0, 1.0),
    )
    scope: Literal["image_rows", "image_block", "all"] = setting(
        "image_rows",
        "tokens",
        "image_rows: image queries see only themselves; image_block: themselves and the text; "
        "all: text queries too",
    )
    start: float = setting(0.0, "fraction of steps", "first guided step", bounds=(0.0, 1.0))
    stop: float = setting(1.0, "fraction of steps", "end of the guided steps", bounds=(0.0, 1.0))

    def __post_init__(self) -> None:
        given = self.heads
        fit_fields(self)
        object.__setattr__(self, "heads", kept(given, self.heads))
        if not (0.0 <= self.start <= self.stop <= 1.0):
            raise MethodError(
                "SoftPAG needs 0 <= start <= stop <= 1 (fractions of steps), "
                f"got start={self.start}, stop={self.stop}."
            )
        if not 0.0 <= self.scale <= 20.0:
            raise MethodError(f"SoftPAG scale must lie in [0, 20], got {self.scale}; 1 to 3 is usual.")
        head_sets.check(self._head_sets())
        if self.strength in ([], ()):
            raise MethodError("SoftPAG strength is a number or a list of them, got []; None is the default.")
        for value in [*self._row_strengths(), *head_sets.own_strengths(self._head_sets())]:
            if not 0.0 <= value <= 1.0:
                raise MethodError(
                    f"SoftPAG strength must lie in [0, 1], got {value}; 1 is PAG, 0 is no perturbation."
                )
        rows = {len(x) for x in (self.heads, self.strength) if _per_row(x)}
        if len(rows) > 1:
            raise MethodError(
                f"SoftPAG takes one entry of heads and of strength per image, got {len(self.heads)} and "
                f"{len(self.strength)}; give both the batch size or a single value."
            )

    # what to act on -----------------------------------------------------------------------------------------

    def select(self, sites: Sequence[Site]) -> list[Site]:
        """Select the sites named in `heads`, or the middle layer."""
        usable = [s for s in sites if s.kind != "cross"]
        if self.heads is None:
            return _middle(usable)
        picked: dict[Site, None] = {}
        for head_set in self._head_sets():
            if isinstance(head_set, HeadSet):
                head_set.check_model(usable)
            for path, heads in head_set.items():
                found = [s for s in sites if path in (s.name, s.path)]
                if not found:
                    closest = ", ".join(nearest_names(path, [s.name for s in usable]))
                    raise MethodError(
                        f"SoftPAG found no attention module {path!r}; the nearest names are {closest}."
                    )
                for site in found:
                    head_sets.check_heads(site, heads)
                    picked[site] = None
        if not picked:
            raise MethodError(
                "SoftPAG got an empty head set, which would change nothing; name at least one module."
            )
        return sorted(picked, key=sites.index)

    def why_not(self, site: Site, layout: Layout | None) -> str | None:
        """Refuse cross-attention: its value has other tokens than its query, so there is no identity map."""
        if site.kind == "cross":
            return (
                f"SoftPAG makes attention the identity map, which cross-attention ({site.path}) does not have"
            )
        return None

    @property
    def reads_layout(self) -> bool:
        """True if the core slices the sequence, which only `image_block` does."""
        return self.scope == "image_block"

    def bind(self, site: Site, run: RunContext, inner: Core) -> Core:
        return _PerturbedCore(inner, run, self.scope)

    # the extra pass -----------------------------------------------------------------------------------------

    def idle(self, run: RunContext) -> str | None:
        """Return why no step of a run was guided, although scale and strength ask for it."""
        if self._is_off():
            return None
        return no_steps(self.start, self.stop, run.steps)

    def _is_off(self) -> bool:
        own = head_sets.own_strengths(self._head_sets())
        common = self._row_strengths() if head_sets.shared(self._head_sets()) else []
        return self.scale == 0.0 or not any([*own, *common])

    def active(self, run: RunContext) -> bool:
        if self._is_off():
            return False
        if (self.start, self.stop) == (0.0, 1.0):
            return True
        if run.step is None or run.steps is None:
            raise UnsupportedError(
                "SoftPAG start/stop are fractions of the steps of a pipeline, but it was applied to a bare "
                "denoiser; apply it to the pipeline or leave start=0, stop=1."
            )
        return run.step in step_window(self.start, self.stop, run.steps)

    def begin_pass(self, cores: dict[Site, "_PerturbedCore"], rows: int, like: Tensor) -> None:
        """Set the weight `[rows, 1 or S, H, 1]` of every bound core: strength by head, 0 on text rows."""
        for site, core in cores.items():
            strength = self.strengths(site, rows)
            core.picked = strength.any(dim=0).nonzero().flatten().to(like.device)
            core.weight = strength[:, None, :, None].to(device=like.device, dtype=like.dtype)
            if self.scope == "image_rows" and site.kind == "joint":
                # A tensor, not a slice: a slice bound would cost a compiled graph for each size of image.
                core.weight = core.weight * _image_rows(core.run.layout, like)

    def delta(self, cond: Tensor, perturbed: Tensor) -> Tensor:
        """Return `scale * (cond - perturbed)`, `[B, ...]` like its arguments (eq. 5)."""
        return self.scale * (cond - perturbed)

    def strengths(self, site: Site, rows: int) -> Tensor:
        """Return the strengths `U [rows, H]` of one site, fp32 on the CPU."""
        for what in (self.heads, self.strength):
            if _per_row(what) and len(what) != rows:
                raise MethodError(
                    f"SoftPAG was given {len(what)} entries, one per image, but the batch has {rows} "
                    "conditional rows; pass one entry or as many as images."
                )
        sets, common = self._head_sets() or [{site.name: None}], self._row_strengths()
        out = torch.zeros(rows, site.heads)
        for row in range(rows):
            u = common[row if len(common) > 1 else 0]
            for head, value in head_sets.strengths(sets[row if len(sets) > 1 else 0], site, u).items():
                out[row, head] = value
        return out

    def _head_sets(self) -> list[Heads]:
        if self.heads is None:
            return []
        return list(self.heads) if _per_row(self.heads) else [self.heads]

    def _row_strengths(self) -> list[float]:
        if self.strength is not None:
            return [float(u) for u in self.strength] if _per_row(self.strength) else [float(self.strength)]
        return [0.5 if head_sets.size(s) >= 6 else 1.0 for s in self._head_sets()] or [0.5]


class _PerturbedCore:
    """Lerps the chosen heads toward their perturbed output while `run.perturbed` is set."""

    def __init__(self, inner: Core, run: RunContext, scope: str) -> None:
        self.inner = inner
        self.run = run
        self.scope = scope
        self.weight: Tensor | None = None  # [B, 1 or S, H, 1]
        self.picked: Tensor | None = None  # head numbers with a strength above 0 in any row

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, layout: Layout | None) -> Tensor:
        out = self.inner(q, k, v, mask, layout)
        if not self.run.perturbed:
            return out
        if self.scope != "image_block" or layout is None or layout.text.start == layout.text.stop:
            return torch.lerp(out, v, self.weight)
        rows = layout.vision
        picked = (x.index_select(2, self.picked) for x in (q, k, v))
        block = image_block(*picked, mask, rows, layout.text, self.picked)
        target = out[:, rows].index_copy(2, self.picked, block)
        return torch.slice_scatter(
            out, torch.lerp(out[:, rows], target, self.weight), 1, rows.start, rows.stop
        )


def _image_rows(layout: Layout, like: Tensor) -> Tensor:
    """Return `[1, S, 1, 1]`: 1 on image rows, 0 on text rows of a joint sequence."""
    rows = torch.zeros(max(layout.vision.stop, layout.text.stop), device=like.device, dtype=like.dtype)
    rows[layout.vision] = 1
    return rows[None, :, None, None]


def _middle(sites: Sequence[Site]) -> list[Site]:
    """Select as PAG does by default: the mid block of a U-shaped denoiser, else the middle layer, of each.

    A layer with two attention modules (SD3.5 medium) counts once, and the first of them is taken.
    """
    out = []
    for component in dict.fromkeys(s.component for s in sites):
        mine = [s for s in sites if s.component == component]
        mid = [s for s in mine if s.name.startswith("mid_block")]
        layers = {s.name.rpartition(".")[0]: s for s in reversed(mine)}  # layer -> its first module
        out += mid or [list(layers.values())[-1 - len(layers) // 2]]
    return out


def _per_row(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)
