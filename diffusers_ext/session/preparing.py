"""Let methods act before a call of a denoiser: on the prompt that it reads, and on its latents."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ..calls import GRADIENT_COST, CrossText, DenoiserCall, PassEnded, PromptMethod
from ..core import Core, RunContext, Site
from ..errors import UnsupportedError
from ..families import texts as family_texts
from ..families.base import Family, take_rows
from .conflicts import runs_again
from .latents import LatentNotes, notes_of
from .prompts import prompts_of, tokenizers

Forward = Callable[[dict[str, Any]], Any]


class Preparing:
    """Runs `PromptMethod.before` of each method, and keeps what the methods note by pipeline and run."""

    def __init__(
        self, run: RunContext, family: Family, methods: Sequence[tuple[PromptMethod, Mapping[Site, Core]]]
    ) -> None:
        """Store `methods`, each with its cores on this denoiser."""
        self.run = run
        self.family = family
        # Texts are set before a method looks at what they do, whatever the user's order.
        self.methods = sorted(methods, key=lambda each: each[0].moves_latents)
        self.methods_that_run_again = [method for method, _ in self.methods if runs_again(method)]
        self.extra_evaluations = GRADIENT_COST * len(self.methods_that_run_again)  # of a row, in a step
        self._kept: WeakKeyDictionary[Any, _Kept] = WeakKeyDictionary()

    def before(self, call: dict[str, Any], rows: slice, pipe: Any, point: Any, forward: Forward) -> set[int]:
        """Let the methods act before `call`, whose latents may be exchanged.

        `rows` are the conditional rows, `point` is the run, and `forward` runs the denoiser on a call by
        names. Returns the `id` of each method that changed something or ran a pass.
        """
        name = self.methods[0][0].name
        if self.run.pass_ == "uncond" or pipe is None:
            raise UnsupportedError(
                f"{name} needs a pipeline that runs both branches of its guidance in one batch, or only the "
                "conditional one, and got a call of another kind; apply it to a pipeline such as "
                "StableDiffusionPipeline."
            )
        kept = self._kept.get(pipe)
        if kept is None or kept.point != point:
            kept = self._kept[pipe] = _Kept(point, *prompts_of(pipe, name))
        acted = set()
        for method, cores in self.methods:
            own = kept.by_method.setdefault(id(method), {})
            seen = _Call(self, method, call, rows, pipe, kept, own, forward)
            method.before(seen, cores)
            if seen.acted:
                acted.add(id(method))
        return acted


class _Kept:
    """What is kept for one run of a pipeline."""

    def __init__(self, point: Any, prompts: tuple[str, ...], copies: int) -> None:
        self.point = point
        self.prompts = prompts
        self.copies = copies
        self.by_method: dict[int, dict[Any, Any]] = {}


class _Call(DenoiserCall):
    """The call that `Preparing.before` was given."""

    def __init__(
        self,
        parts: Preparing,
        method: PromptMethod,
        call: dict[str, Any],
        rows: slice,
        pipe: Any,
        run: _Kept,
        own: dict[Any, Any],
        forward: Forward,
    ) -> None:
        self.kept = own
        self.acted = False  # whether the method changed something, or ran a pass
        self._parts, self._method, self._call, self._rows = parts, method, call, rows
        self._pipe, self._forward = pipe, forward
        count = rows.stop - rows.start
        numbers = parts.run.rows
        self.numbers = tuple(range(count)) if numbers is None else tuple(numbers)
        self._total = len(run.prompts) * run.copies
        self._checked = False  # whether the notes of the scheduler were seen to be of this call
        if len(self.numbers) != count or max(self.numbers) >= self._total:
            raise UnsupportedError(
                f"{method.name} expects a conditional row for each of the {self._total} pictures of the "
                f"call, got {count}; use a pipeline without views or parts of a picture."
            )
        self.tokenizers = tokenizers(pipe)
        self.prompt_count = len(run.prompts)
        self.prompt_numbers = tuple(number // run.copies for number in self.numbers)
        self.prompts = tuple(run.prompts[place] for place in self.prompt_numbers)

    @property
    def text(self) -> Tensor:
        return self._call["encoder_hidden_states"][self._rows]

    def encode(self, texts: Sequence[str]) -> Tensor:
        return family_texts.encoded(self._pipe, list(texts), self.text.shape[1]).to(self.text)

    def read(self, text: CrossText) -> None:
        """Set the texts of all rows of the call; the unconditional ones keep theirs, with weight one."""
        self.acted = True
        whole, rows = self._call["encoder_hidden_states"], self._rows
        weights = text.weights
        if weights is not None:
            alone = weights.new_zeros((len(weights), len(whole)))
            alone[0] = 1
            alone[:, rows] = weights
            weights = alone
        values, *keys = (_in_place(whole, rows, words) for words in (text.values, *text.keys))
        self._parts.run.cross_text = CrossText(values, tuple(keys), weights)

    @property
    def latents(self) -> Tensor:
        return self._notes().raw[self._raw_rows()]

    def gradient(self, loss: Callable[[], Tensor]) -> Tensor | None:
        self.acted = True
        run, latents = self._parts.run, self.latents
        if torch.is_inference_mode_enabled():
            raise UnsupportedError(
                f"{self._method.name} needs gradients, which torch.inference_mode() rules out; use "
                "torch.no_grad(), which pipelines do by themselves."
            )
        text = run.cross_text
        # The flag stays until the gradient is there: checkpointed blocks run again for it.
        run.gradient_pass, run.cross_text = True, None if text is None else text.take(self._rows)
        try:
            with torch.enable_grad():
                leaf = latents.detach().to(torch.promote_types(latents.dtype, torch.float32)).requires_grad_()
                with suppress(PassEnded):
                    self._forward(self._alone(leaf))
                value = loss()
            return torch.autograd.grad(value, leaf)[0] if value.requires_grad else None
        finally:
            run.gradient_pass, run.cross_text = False, text

    def _alone(self, latents: Tensor) -> dict[str, Any]:
        """Return the call of the conditional rows alone, with other latents."""
        family = self._parts.family
        call = take_rows(self._call, family.batch(self._call), self._rows, family.unbatched)
        return call | {self._name: self._with_latents(call[self._name], latents)}

    def move(self, latents: Tensor) -> None:
        self.acted = True
        notes = self._notes()
        if notes.moved is None:
            notes.moved = notes.raw[-self._total :].clone()
        index = torch.tensor(self.numbers, device=latents.device)
        notes.moved = notes.moved.index_copy(0, index, latents.to(notes.moved))
        branches = self._parts.family.batch(self._call) // len(self.numbers)
        moved = torch.cat([latents] * branches)
        self._call[self._name] = self._with_latents(self._call[self._name], moved)

    @property
    def _name(self) -> str:
        """The name of the latents among the arguments of the denoiser."""
        return next(name for name, x in self._call.items() if isinstance(x, Tensor) and x.ndim > 2)

    def _raw_rows(self) -> Tensor:
        """Return the places of the conditional rows among those that the scheduler scaled."""
        raw = self._notes().raw
        return torch.tensor(self.numbers, device=raw.device) + len(raw) - self._total

    def _with_latents(self, given: Tensor, latents: Tensor) -> Tensor:
        """Put scaled latents in place of the first channels of `given`; masks of inpainting follow."""
        scaled = self._notes().scale(latents).to(given.dtype)
        rest = given[:, scaled.shape[1] :]
        return torch.cat([scaled, rest], dim=1) if rest.shape[1] else scaled

    def _notes(self) -> LatentNotes:
        """Return the notes of the scheduler; raises `UnsupportedError` if they are not of this call."""
        notes = notes_of(getattr(self._pipe, "scheduler", None))
        kind, name = type(self._pipe).__name__, self._method.name
        if notes is None:
            raise UnsupportedError(
                f"{name} steps by a scheduler of its session, but {kind} has another; close the session, set "
                "the scheduler, and apply to the pipeline that you call."
            )
        if not self._checked and not self._are_of_this_call(notes):
            raise UnsupportedError(
                f"{name} moves the latents that the scheduler scales for the denoiser, but {kind} gives the "
                "denoiser others; use a pipeline such as StableDiffusionPipeline."
            )
        self._checked = True
        return notes

    def _are_of_this_call(self, notes: LatentNotes) -> bool:
        if notes.scaled is None or len(notes.scaled) < self._total:
            return False
        given = self._call[self._name][self._rows]
        rows = torch.tensor(self.numbers, device=given.device) + len(notes.scaled) - self._total
        scaled = notes.scaled[rows].to(given.dtype)
        return torch.equal(given[:, : scaled.shape[1]], scaled)


def _in_place(whole: Tensor, rows: slice, words: Tensor) -> Tensor:
    """Return a text `[B, L, C]` with other words in some rows."""
    return torch.cat([whole[: rows.start], words.to(whole), whole[rows.stop :]])
