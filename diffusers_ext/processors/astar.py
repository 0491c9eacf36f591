"""A-STAR: the latents are moved so that concepts are apart in cross-attention, and stay where they were.

Paper: Agarwal et al., "A-STAR: Test-time Attention Segregation and Retention" (arXiv 2306.14544), eq. 1-4.
The paper leaves open how maps are compared and how much latents move; both are those of Attend-and-Excite
(arXiv 2301.13826), whose loss is an option.
"""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..calls import DenoiserCall, PromptMethod
from ..core import Core, RunContext, Site, Slot, no_steps, step_window
from ..errors import MethodError
from ..kernels.maps import binarised
from ..prompts.phrases import described_nouns, head_nouns
from ..prompts.places import Tokens, by_prompt, for_prompt, listed, whole_words, word_places
from ..settings.fields import check_bounds, fit_fields, setting
from .attention_maps import MapCore, attention_to_text, keeping
from .concepts import Concept, area_masks, check_area, concept_maps, excitation, retention, segregation

Words = str | Sequence[int]


@dataclass(frozen=True)
class AStar(PromptMethod):
    """Moves the latents of each step so that concepts do not share places, and keep those that they have.

    Each step runs the conditional rows once more, with gradients, until the last layer whose maps are read.
    The latents move by `step_size * sqrt(1 - step / (2 (steps - 1)))` times the gradient of `segregation *
    sum of overlaps of pairs + retention * sum of (1 - overlap with the mask of the step before)`. The
    pipeline has a scheduler of the session's own until it closes. A weight or step size of 0 is the plain
    model.

    Raises `MethodError` for concepts that are empty, not in the prompt, cut off or share words, for a single
    one that nothing can be kept apart from, and for masks that do not fit. Raises `UnsupportedError` for
    models without cross-attention to the prompt and under `torch.inference_mode`.
    """

    name: ClassVar[str] = "astar"
    slots: ClassVar[frozenset[Slot]] = frozenset({Slot.OBSERVE})
    reads_layout: ClassVar[bool] = False
    moves_latents: ClassVar[bool] = True

    concepts: str | Sequence[Words] | Sequence[Sequence[Words]] | Callable | None = setting(
        None,
        "words of the prompt",
        "concepts with commas between them, a list of words or of [first, end] of characters, a list of such "
        "lists for each prompt, or a function of the prompt; none: what rules find",
    )
    adjectives: bool = setting(
        True, "switch", "concepts that are found include the words before their noun, such as its colour"
    )
    masks: Mapping[str, Sequence[float] | Sequence[Sequence[float]]] | None = setting(
        None,
        "concept -> area",
        "where concepts are kept: a box [left, top, right, bottom] in fractions, or a mask of the picture's "
        "shape",
    )
    loss: Literal["astar", "attend_and_excite"] = setting(
        "astar", "kind", "astar: overlaps of maps; attend_and_excite: the peak of the weakest concept"
    )
    segregation: float = setting(1.0, "weight", "of the overlap of pairs of concepts", bounds=(0.0, None))
    retention: float = setting(1.0, "weight", "of the overlap with earlier maps", bounds=(0.0, None))
    # Step and last step are those of Attend-and-Excite; see docs/astar.md for what others do.
    step_size: float = setting(20.0, "latents per loss", "the distance that latents move", bounds=(0.0, None))
    threshold: float = setting(
        0.5, "fraction of the peak", "from which a place belongs to a concept", bounds=(0.0, 1.0)
    )
    halvings: int | None = setting(
        None,
        "halvings",
        "of the grid of latents where maps are read; none: 2, or the finest grid of a model without it",
        bounds=(0, None),
    )
    start: float = setting(0.0, "fraction of steps", "first step that moves", bounds=(0.0, 1.0))
    stop: float = setting(0.5, "fraction of steps", "end of the steps that move", bounds=(0.0, 1.0))

    def __post_init__(self) -> None:
        fit_fields(self)
        check_bounds(self)
        if self.start > self.stop:
            raise MethodError(
                f"astar needs 0 <= start <= stop <= 1 (fractions of steps), got start={self.start}, "
                f"stop={self.stop}."
            )
        for concepts in self.concepts if by_prompt(self.concepts) else [self.concepts]:
            if isinstance(concepts, Sequence):
                self._check_count(len(listed(concepts)))
        for words, area in (self.masks or {}).items():
            check_area(words, area, self.name)
        if self.masks and (self.loss != "astar" or not self.retention):
            raise MethodError(
                "astar masks are where retention keeps concepts, which this loss or a retention of 0 leaves "
                "out; leave masks out, or set loss='astar' and a retention above 0."
            )

    # what to act on -----------------------------------------------------------------------------------------

    def select(self, sites: Sequence[Site]) -> list[Site]:
        """Select the cross-attention where the grid of latents is halved `halvings` times."""
        cross = [site for site in sites if site.kind == "cross"]
        known = sorted({site.halvings for site in cross})
        if self.halvings is not None and self.halvings not in known:
            raise MethodError(
                f"astar reads cross-attention where the grid of latents is halved "
                f"{', '.join(map(str, known))} times in this model, got halvings={self.halvings}; choose one."
            )
        usual = 2 if 2 in known else min(known, default=0)
        wanted = usual if self.halvings is None else self.halvings
        return [site for site in cross if site.halvings == wanted]

    def bind(self, site: Site, run: RunContext, inner: Core) -> Core:
        return MapCore(inner, run, self.idle)

    # before a call ------------------------------------------------------------------------------------------

    def before(self, call: DenoiserCall, cores: "dict[Site, MapCore]") -> None:
        """Move the latents of the conditional rows by the gradient of the losses of their maps."""
        run = next(iter(cores.values())).run
        moved, masks = (call.kept.setdefault(name, {}) for name in ("step", "masks"))
        if self.is_off() or run.step not in self.steps(run.steps):
            return
        if all(moved.get(number) == run.step for number in call.numbers):
            return  # the second call of a second-order step, which goes on from the latents of the first
        found = [self._concepts(call, row) for row in range(len(call.numbers))]

        def loss() -> Tensor:
            attention = attention_to_text(cores, run.layout)
            return sum(  # over pictures, which do not meet
                self._loss(number, concept_maps(each, *about), about[0], masks)
                for number, about, each in zip(call.numbers, found, attention, strict=True)
            )

        with keeping(cores):
            gradient = call.gradient(loss)
        moved.update(dict.fromkeys(call.numbers, run.step))
        if gradient is None:  # one concept, which has no mask in the first step
            return
        usable = gradient.flatten(1).isfinite().all(1)
        if not bool(usable.all()):
            self._warn(call, usable, run.step)
            gradient = torch.where(usable[:, None, None, None], gradient, 0.0)
        size = self.step_size * math.sqrt(1 - run.step / (2 * max(run.steps - 1, 1)))
        call.move(call.latents - (size * gradient).to(call.latents.dtype))

    def _warn(self, call: DenoiserCall, usable: Tensor, step: int) -> None:
        """Warn once in a run of pictures whose gradient is not finite."""
        if not call.kept.setdefault("warned", False):
            call.kept["warned"] = True
            warnings.warn(
                f"diffusers_ext: astar left {int((~usable).sum())} of {len(usable)} pictures as they are in "
                f"step {step}, since the gradient is not finite; use bf16 or fp32.",
                stacklevel=2,
            )

    def idle(self, run: RunContext) -> str | None:
        """Return why no step of a run moved the latents, although the settings ask for it."""
        if self.is_off() or run.steps is None or len(self.steps(run.steps)):
            return None
        return no_steps(self.start, self.stop, run.steps)

    def is_off(self) -> bool:
        """Return whether the settings make this the plain model."""
        weightless = self.loss == "astar" and self.segregation == self.retention == 0.0
        return self.step_size == 0.0 or weightless

    def steps(self, steps: int) -> range:
        """Return the steps that move the latents."""
        return step_window(self.start, self.stop, steps)

    def _loss(
        self, number: int, maps: Tensor, concepts: Sequence[Concept], masks: dict[int, Tensor]
    ) -> Tensor:
        """Return the loss of the maps `[C, h, w]` of picture `number`, and refresh its masks in `masks`."""
        if self.loss == "attend_and_excite":
            return excitation(maps)
        before, masks[number] = masks.get(number), binarised(maps, self.threshold)
        loss = maps.new_zeros(())
        if self.segregation and len(maps) > 1:
            loss = loss + self.segregation * segregation(maps)
        if not self.retention:
            return loss
        size = maps.shape[-2], maps.shape[-1]
        wanted = {i: mask.to(maps) for i, mask in area_masks(concepts, size, self.name).items()}
        if before is not None:
            wanted = dict(enumerate(before)) | wanted
        if not wanted:
            return loss
        return loss + self.retention * retention(maps[list(wanted)], torch.stack(list(wanted.values())))

    def _concepts(self, call: DenoiserCall, row: int) -> tuple[list[Concept], Tokens]:
        """Return the concepts of the prompt of a row; they are found once in a run."""
        number, known = call.prompt_numbers[row], call.kept.setdefault("concepts", {})
        if number not in known:
            known[number] = self._found(call, call.prompts[row], number)
        return known[number]

    def _found(self, call: DenoiserCall, prompt: str, number: int) -> tuple[list[Concept], Tokens]:
        tokens = Tokens(call.tokenizers, prompt)
        if self.concepts is None:
            found = described_nouns(prompt) if self.adjectives else head_nouns(prompt)
            places = [place for place in found if tokens.seen(place)]
            if not places:
                raise MethodError(
                    f"astar found no noun among the words that the text encoder sees of {prompt!r}; name "
                    "concepts."
                )
        else:
            wanted = for_prompt(self.concepts, prompt, number, call.prompt_count, self.name, "concepts")
            self._check_count(len(wanted))
            places = [whole_words(prompt, p) for p in word_places(prompt, wanted, self.name, "concepts")]
        spans = [tokens.require(place, self.name, "concept") for place in places]
        if len({token for span in spans for token in span}) < sum(map(len, spans)):
            raise MethodError(
                f"astar keeps concepts apart, but two of those of {prompt!r} share words; name other words."
            )
        words = [" ".join(prompt[slice(*place)].lower().split()) for place in places]
        areas = {}
        for key, area in (self.masks or {}).items():
            if (place := self._masked(words, key)) in areas:
                raise MethodError(
                    f"astar takes one mask for a concept, got a second one for {words[place]!r} as {key!r}; "
                    "leave one out."
                )
            areas[place] = area
        return [
            Concept(w, span, areas.get(i)) for i, (w, span) in enumerate(zip(words, spans, strict=True))
        ], tokens

    def _masked(self, concepts: Sequence[str], key: str) -> int:
        """Return the place of the concept that the mask `key` is of; "cat" is also that of "red cat"."""
        key = " ".join(key.lower().split())
        found = [i for i, words in enumerate(concepts) if words == key or words.endswith(f" {key}")]
        if len(found) != 1:
            raise MethodError(
                f"astar masks are of concepts ({', '.join(concepts)}), got {key!r} for {len(found)} of them; "
                "use the same words."
            )
        return found[0]

    def _check_count(self, count: int) -> None:
        if count == 0:
            raise MethodError(
                "astar concepts are words of the prompt, got none; leave it out to have them found."
            )
        if count == 1 and self.loss == "astar" and self.segregation:
            raise MethodError(
                "astar keeps two or more concepts apart, got 1; name another one, or set segregation=0 to "
                "keep it in its place only."
            )
