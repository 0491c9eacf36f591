"""Run only the candidates of a search that are still alive, a few at a time, and count what runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.hooks.hooks import ModelHook
from torch import nn

from ..errors import MethodError, UnsupportedError
from ..families import family_of
from ..families.base import take_rows, with_prediction
from ..families.denoisers import denoisers
from ..session.cfg import calling_pipeline
from ..session.hook import by_name
from ..session.registration import NAME, install


class Gate:
    """Decides which candidates of a call reach the denoiser, and in groups of what size.

    `alive` holds the numbers of the candidates that run; the others get zeros as their prediction. A group
    holds at most `micro_batch` candidates with all their branches of classifier-free guidance, in the
    pipeline's order. `on_spend` is called with the number of rows before a group runs, and may raise to stop.
    `evaluations` counts rows of the denoiser, a conditional and an unconditional one apart, and those of the
    extra pass of a method. An extra pass that is propagated back counts three times. Where `keeps_graph` is
    off, calls run without a graph for gradients.
    """

    def __init__(
        self, candidates: int, micro_batch: int | None = None, on_spend: Callable[[int], None] | None = None
    ) -> None:
        if micro_batch is not None and micro_batch < 1:
            raise MethodError(
                f"micro_batch is the number of candidates that run at a time, 1 or more, got {micro_batch}; "
                "leave it out to run all at once."
            )
        self.candidates = candidates
        self.micro_batch = micro_batch
        self.evaluations = 0
        self.keeps_graph = True
        self.spent = [0] * candidates  # evaluations by candidate
        self._on_spend = on_spend or (lambda rows: None)
        self._alive = list(range(candidates))

    @property
    def alive(self) -> list[int]:
        """The candidates that run, in rising order."""
        return self._alive

    @alive.setter
    def alive(self, numbers: Sequence[int]) -> None:
        numbers = sorted({int(i) for i in numbers})
        if not numbers or numbers[0] < 0 or numbers[-1] >= self.candidates:
            raise MethodError(
                f"candidates are numbered from 0 to {self.candidates - 1} and one or more stay alive, got "
                f"{numbers}; name some of them."
            )
        self._alive = numbers

    def groups(self) -> Iterator[list[int]]:
        """Yield the candidates that run together."""
        size = self.micro_batch or len(self._alive)
        for first in range(0, len(self._alive), size):
            yield self._alive[first : first + size]

    def spend(self, part: Sequence[int], each: int) -> None:
        """Count `each` evaluations of every candidate in `part`."""
        self.evaluations += each * len(part)
        for i in part:
            self.spent[i] += each

    def about_to_spend(self, rows: int) -> None:
        self._on_spend(rows)

    @contextmanager
    def on(self, pipe: Any) -> Iterator[Gate]:
        """Put the gate on the denoisers of a pipeline; calls of other pipelines pass as they are."""
        undo = []
        try:
            for model in denoisers(pipe).values():
                undo.append(install(model, _GateHook(self, pipe), f"{NAME}_gate_{id(self)}"))
            yield self
        finally:
            for remove in reversed(undo):
                remove()


class _GateHook(ModelHook):
    """Sits above the hook of a session, so that the session sees proper batches."""

    def __init__(self, gate: Gate, pipe: Any) -> None:
        super().__init__()
        self.gate, self.pipe = gate, pipe

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        forward = self.fn_ref.original_forward
        if calling_pipeline() is not self.pipe:
            return forward(*args, **kwargs)
        gate, family = self.gate, family_of(module)
        call = by_name(module, args, kwargs)
        batch, count = family.batch(call), gate.candidates
        if batch % count:
            raise UnsupportedError(
                f"a search needs the same number of rows for each of its {count} candidates, but "
                f"{type(self.pipe).__name__} gave the denoiser {batch}; use a pipeline without views."
            )
        branches = batch // count
        pieces = []
        for part in gate.groups():
            gate.about_to_spend(branches * len(part))
            rows = [branch * count + i for branch in range(branches) for i in part]
            if len(rows) == batch:
                return self._forward(module, part, branches, forward, args, kwargs)
            index = torch.tensor(rows)
            some = take_rows(call, batch, index, family.unbatched)
            out = self._forward(module, part, branches, forward, (), some)
            pieces.append((index, out[0]))
        first = pieces[0][1]
        whole = first.new_zeros((batch, *first.shape[1:]))
        for index, prediction in pieces:
            whole = whole.index_copy(0, index.to(whole.device), prediction)
        return with_prediction(out, whole)

    def _forward(
        self,
        module: nn.Module,
        part: Sequence[int],
        branches: int,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> Any:
        with torch.set_grad_enabled(self.gate.keeps_graph and torch.is_grad_enabled()):
            out, extra = self._counted(module, part, forward, args, kwargs)
        self.gate.spend(part, branches + extra)
        return out

    def _counted(
        self,
        module: nn.Module,
        part: Sequence[int],
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> tuple[Any, int]:
        """Return the output and the evaluations of extra passes of a session below."""
        session = module._diffusers_hook.get_hook(NAME)
        if session is None or session.session.closed:
            return forward(*args, **kwargs), 0
        with session.session.lock:
            before, session.run.rows = session.extra_evaluations, tuple(part)
            try:
                out = forward(*args, **kwargs)
            finally:
                session.run.rows = None
            return out, session.extra_evaluations - before
