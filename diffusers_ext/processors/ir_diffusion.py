"""IR-Diffusion: several subjects keep their looks from picture to picture, and do not mix.

Paper: He et al., "Improving Multi-Subject Consistency in Open-Domain Image Generation with Isolation and
Reposition Attention" (arXiv 2411.19261). The cross-attention to the texts of the references is that of
DreamStory (arXiv 2407.12899).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from ..core import Core, Layout, Method, RunContext, Site, Slot, no_steps, step_window
from ..errors import MethodError
from ..settings.fields import check_bounds, fit_fields, setting
from .concepts import check_area
from .ir_cores import CrossCore, SelfCore

Area = Sequence[float] | Sequence[Sequence[float]]
NEXT = "`diffusers-ext story` and dx.StoryPipeline find masks and make the calls"


@dataclass(frozen=True)
class IRDiffusion(Method):
    """Draws N references and a scene in one call, so that N subjects look in the scene as in their reference.

    The pipeline is called with the prompts `[reference 1, ..., reference N, scene]`. References are drawn as
    the plain model draws them, bit for bit. In the scene only the tokens of subjects change:

    - Isolation: in all layers a token of one subject does not see tokens of another one.
    - Reposition: from layer `start_layer` on a token of subject i also sees the tokens of subject i in
      reference i, resized to its box in the scene. `mask_dropout` of its tokens do not, drawn anew in each
      step. If the draw leaves none, all of them do, except at 1, where none ever does.
    - Cross-attention: `cross_lambda` of what it reads comes from the prompt of reference i.

    The paper moves the subject in reference and scene to one place. Here the keys of the reference alone are
    moved, which is the same. Attention without positions sees its keys as a set, where only the number of
    copies of a token counts. So `reposition="multiplicity"` adds the logarithm of that number to the logits
    of a reference token. `"warp"` makes the copies, at the same result. Rotary positions (FLUX.1) act through
    differences, so `"rope"` makes copies and turns their keys to the places in the scene. That is our
    extension, and no figures are published for it. `"none"` takes each token of a reference once, where it
    is.

    Raises `MethodError` for masks that are missing, empty, unequal in number or the same for two subjects,
    and for calls with other rows. Raises `UnsupportedError` for videos and where `reposition` does not fit
    the positions of a model.
    """

    name: ClassVar[str] = "ir-diffusion"
    slots: ClassVar[frozenset[Slot]] = frozenset({Slot.CORE})
    saves_pairs: ClassVar[bool] = False

    reference_masks: Sequence[Area] | None = setting(
        None,
        "areas",
        "of the subject in each reference: a box [left, top, right, bottom] in fractions, or rows of a mask",
        repr=False,
    )
    scene_masks: Sequence[Area | None] | None = setting(
        None,
        "areas",
        "of each subject in the scene, in the same order; none for a subject that is not in it",
        repr=False,
    )
    isolation: bool = setting(True, "switch", "tokens of one subject do not see those of another")
    reposition: Literal["auto", "multiplicity", "warp", "rope", "none"] = setting(
        "auto",
        "kind",
        "how a reference comes to the box of the scene: multiplicity weights its tokens, warp copies them, "
        "rope also turns their positions, none does nothing; auto: rope with rotary positions, else "
        "multiplicity",
    )
    # The published code begins at layer 36 of the 70 of SDXL.
    start_layer: float = setting(
        0.514, "fraction of layers", "first layer of self-attention that sees references", bounds=(0.0, 1.0)
    )
    layers: Sequence[str] | None = setting(
        None, "module paths", "modules or blocks that see references, in place of start_layer"
    )
    mask_dropout: float = setting(
        0.5, "share", "of the tokens of a subject that do not see its reference", bounds=(0.0, 1.0)
    )
    ref_bias: float = setting(0.0, "logits", "added where a reference is seen", bounds=(-20.0, 20.0))
    cross_lambda: float = setting(
        0.9, "share", "of cross-attention that goes to the prompt of the reference", bounds=(0.0, 1.0)
    )
    start: float = setting(0.0, "fraction of steps", "first step that changes", bounds=(0.0, 1.0))
    stop: float = setting(1.0, "fraction of steps", "end of the steps that change", bounds=(0.0, 1.0))
    seed: int = setting(0, "seed", "of the tokens that mask_dropout draws")

    def __post_init__(self) -> None:
        fit_fields(self)
        check_bounds(self)
        if self.start > self.stop:
            raise MethodError(
                f"{self.name} needs 0 <= start <= stop <= 1 (fractions of steps), got start={self.start}, "
                f"stop={self.stop}."
            )
        if self.layers is not None and not self.layers:
            raise MethodError(
                f"{self.name} layers is a list of module paths, got none in it; for no layer set "
                "start_layer=1."
            )
        for kind in ("reference_masks", "scene_masks"):
            for number, area in enumerate(getattr(self, kind) or ()):
                if area is not None:
                    check_area(f"subject {number + 1} in {kind}", area, self.name)
        scene = [area for area in self.scene_masks or () if area is not None]
        if any(first == second for i, first in enumerate(scene) for second in scene[:i]):
            raise MethodError(
                f"{self.name} keeps subjects apart, but two of scene_masks are the same; give masks that "
                "differ, or none for one of them."
            )

    @property
    def subjects(self) -> int:
        """The number of subjects, and of references."""
        return len(self.reference_masks or ())

    def select(self, sites: Sequence[Site]) -> list[Site]:
        """Select all self-attention and joint attention, and cross-attention if it reads references."""
        if not self.reference_masks or self.scene_masks is None:
            raise MethodError(
                f"{self.name} needs reference_masks and scene_masks, which say where each subject is, got "
                f"none; {NEXT}."
            )
        if len(self.scene_masks) != self.subjects:
            raise MethodError(
                f"{self.name} has a reference mask and a scene mask for each subject, got {self.subjects} "
                f"and {len(self.scene_masks)}; give as many, with none where a subject is not in the scene."
            )
        self.mutual(sites)
        return [site for site in sites if site.kind != "cross" or self.cross_lambda > 0]

    def why_not(self, site: Site, layout: Layout | None) -> str | None:
        """Return why `reposition` does not fit the positions of a site."""
        if site.kind == "cross" or self.reposition == "none":
            return None
        turned = self.reposition in ("auto", "rope")
        if site.rotary is None and self.reposition == "rope":
            return f"{self.name} reposition='rope' turns rotary positions, which {site.path} does not have"
        if site.rotary is not None and not (turned and site.rotary.channels):
            return (
                f"{self.name} would leave references at their old place, since {site.path} has rotary "
                "positions that reposition="
                + (f"{self.reposition!r} does not turn" if not turned else "'rope' does not know")
            )
        return None

    def mutual(self, sites: Sequence[Site]) -> set[str]:
        """Return the paths of the sites whose scene tokens see references.

        Raises `MethodError` for a name in `layers` that no site has.
        """
        own = sorted((site for site in sites if site.kind != "cross"), key=lambda site: site.index)
        if self.layers is None:
            return {site.path for site in own[math.ceil(self.start_layer * len(own) - 1e-9) :]}
        found: set[str] = set()
        for layer in self.layers:
            inside = {s.path for s in own if any(_is_in(n, layer) for n in (s.name, s.path))}
            if not inside:
                raise MethodError(
                    f"{self.name} found no self-attention in {layer!r}; see dx.summary(pipe) for its modules."
                )
            found |= inside
        return found

    def bind(self, site: Site, run: RunContext, inner: Core) -> Core:
        return CrossCore(self, site, run, inner) if site.kind == "cross" else SelfCore(self, site, run, inner)

    def active(self, run: RunContext) -> bool:
        """Return whether the current step changes."""
        if (self.start, self.stop) == (0.0, 1.0) or run.step is None:
            return self.start < self.stop
        return run.step in step_window(self.start, self.stop, run.steps)

    def changing(self, run: RunContext, calls: int) -> int:
        """Return in how many of the `calls` of the denoiser in a run the method acts.

        Some schedulers call it twice in a step, but not in the last one. The result is then an upper bound.
        """
        if (self.start, self.stop) == (0.0, 1.0) or run.steps is None:
            return calls if self.start < self.stop else 0
        each = math.ceil(calls / run.steps)
        return min(calls, each * len(step_window(self.start, self.stop, run.steps)))

    def idle(self, run: RunContext) -> str | None:
        """Return why no step of a run changed; `None` also if the settings switch all parts off."""
        if self.start == self.stop:
            return no_steps(self.start, self.stop, run.steps)
        if not any(area is not None for area in self.scene_masks):
            return "none of its subjects is in the scene; give scene_masks an area"
        return None


def _is_in(name: str, layer: str) -> bool:
    """Return whether a module is the one at a path, or in the block at that path."""
    return name == layer or name.startswith(f"{layer}.")
