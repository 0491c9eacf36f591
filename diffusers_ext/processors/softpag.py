"""SoftPAG: guidance away from a pass in which the maps of chosen attention heads are perturbed.

Paper: Ahn et al., "Where and How to Perturb" (arXiv 2506.10978), eq. 5-7. With `A' = (1-u) A + u I` the
perturbed head output is `lerp(O, V, u)`, exact for any attention core and without a map in memory. PAG is `u
= 1`. `perturbations.py` has the other maps that can stand in place of `I`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..core import Core, Guidance, Layout, RunContext, Site, Slot, nearest_names, no_steps, step_window
from ..errors import MethodError, UnsupportedError
from ..settings.fields import fit_fields, setting
from . import head_sets, perturbations
from .head_set import HeadSet, kept
from .head_sets import Heads
from .perturbations import PerturbedCore, Scope

# By perturbation, if not `image_rows` and `all`. With `image_block` an image row sees one image key and the
# text, and permutations leave text in its place.
_SCOPES = {
    "identity": ("image_rows", "image_block", "all"),
    "max": ("image_rows", "image_block", "all"),
    "shuffle": ("image_rows",),
}


@dataclass(frozen=True)
class SoftPAG(Guidance):
    """Perturbed-attention guidance on chosen heads: `guided + scale * (cond - perturbed)`.

    With the pipeline's classifier-free guidance the result is `u + s(c - u) + scale (c - p)`, without it `c +
    scale (c - p)`. The perturbed pass `p` is one more pass per step, on the conditional rows only.
    `perturbation` chooses what attention of the heads is perturbed to, `scope` for which tokens. The
    defaults are gentle and not tuned to any model: `dx.preset(pipe, "softpag")` has the settings that are
    known for a pipeline. Raises `MethodError` for settings out of range, unknown module paths and heads.
    """

    name: ClassVar[str] = "softpag"
    slots: ClassVar[frozenset[Slot]] = frozenset({Slot.OUTPUT, Slot.DENOISER})

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
        "u in A' = (1-u)A + uP, P the perturbed map; a list gives one per image; none: 0.5 from six heads "
        "on, else 1",
        bounds=(0.0, 1.0),
    )
    scope: Scope = setting(
        "image_rows",
        "tokens",
        "which rows of the map are perturbed: those of image tokens (image_rows), the same with the text "
        "kept in sight (image_block), or those of text tokens, too (all)",
    )
    start: float = setting(0.0, "fraction of steps", "first guided step", bounds=(0.0, 1.0))
    stop: float = setting(1.0, "fraction of steps", "end of the guided steps", bounds=(0.0, 1.0))
    perturbation: Literal["identity", "uniform", "segment_mean", "max", "temperature", "shuffle"] = setting(
        "identity",
        "map",
        "what attention is perturbed to: each token sees itself (identity), all tokens alike (uniform), what "
        "the mean query sees (segment_mean), its strongest key (max), a flatter map (temperature), or the "
        "outputs of image tokens change places (shuffle)",
    )
    temperature: float | None = setting(
        None,
        "factor",
        "of perturbation=temperature, by which logits are divided; above 1 is flatter; none: 4",
        bounds=(0.01, 1000.0),
    )
    seed: int = setting(0, "seed", "of the permutations of perturbation=shuffle", bounds=(0, None))

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
        if self.temperature is not None and self.perturbation != "temperature":
            raise MethodError(
                f"SoftPAG reads temperature for perturbation='temperature' only, got "
                f"perturbation={self.perturbation!r} and temperature={self.temperature}; leave one out."
            )
        if self.temperature is not None and not 0.01 <= self.temperature <= 1000:
            raise MethodError(
                f"SoftPAG temperature must lie in [0.01, 1000], got {self.temperature}; 1 is the plain model."
            )
        scopes = _SCOPES.get(self.perturbation, ("image_rows", "all"))
        if self.scope not in scopes:
            raise MethodError(
                f"SoftPAG perturbs by {self.perturbation} with scope {' or '.join(scopes)}, got "
                f"{self.scope!r}; set scope={scopes[0]!r}."
            )
        if self.seed < 0:
            raise MethodError(f"SoftPAG seed must be 0 or more, got {self.seed}.")
        rows = {len(x) for x in (self.heads, self.strength) if _per_row(x)}
        if len(rows) > 1:
            raise MethodError(
                f"SoftPAG takes one entry of heads and of strength per image, got {len(self.heads)} and "
                f"{len(self.strength)}; give both the batch size or a single value."
            )

    # what it is ---------------------------------------------------------------------------------------------

    @property
    def needs_dense(self) -> bool:
        """True if the strongest key is looked for, which a sparse method may hide."""
        return self.perturbation == "max"

    @property
    def order_free(self) -> bool:
        """True if image tokens may come in any order, which a shuffled result depends on."""
        return self.perturbation != "shuffle"

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
            return f"SoftPAG perturbs maps of image tokens, which cross-attention ({site.path}) does not have"
        return None

    @property
    def reads_layout(self) -> bool:
        """True if the core slices the sequence, which only `image_block` does."""
        return self.scope == "image_block"

    def bind(self, site: Site, run: RunContext, inner: Core) -> Core:
        kinds = {
            "identity": perturbations.Identity,
            "uniform": perturbations.Uniform,
            "segment_mean": perturbations.SegmentMean,
            "max": perturbations.Strongest,
            "temperature": partial(perturbations.Tempered, temperature=self._divisor),
            "shuffle": partial(perturbations.Shuffled, seed=self.seed),
        }
        return kinds[self.perturbation](site, run, inner, self.scope)

    # the extra pass -----------------------------------------------------------------------------------------

    def idle(self, run: RunContext) -> str | None:
        """Return why no step of a run was guided, although scale and strength ask for it."""
        if self._is_off():
            return None
        return no_steps(self.start, self.stop, run.steps)

    @property
    def _divisor(self) -> float:
        return 4.0 if self.temperature is None else self.temperature

    def _is_off(self) -> bool:
        if self.perturbation == "temperature" and self._divisor == 1.0:
            return True
        own = head_sets.own_strengths(self._head_sets())
        common = self._row_strengths() if head_sets.shared(self._head_sets()) else []
        return self.scale == 0.0 or not any([*own, *common])

    def why_never(self) -> str | None:
        """Return the settings of a strength for all heads that guide no step of any run, with a remedy."""
        if self.scale == 0.0 or self.strength == 0.0:
            return f"scale={self.scale:g} and strength={self.strength:g} changes nothing; set both above 0"
        if self._is_off():
            return "temperature=1 changes nothing; set another one"
        if self.start == self.stop:
            return f"start={self.start:g} and stop={self.stop:g} guides no step; set them apart"
        return None

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

    def begin_pass(self, cores: dict[Site, PerturbedCore], rows: int, like: Tensor) -> None:
        """Give every bound core the strengths of its heads."""
        for site, core in cores.items():
            core.begin_pass(self.strengths(site, rows), like)

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
