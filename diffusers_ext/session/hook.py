"""The hook on a denoiser: it reads each call, counts it, and makes the extra pass of guidance."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from diffusers.hooks.hooks import ModelHook
from torch import Tensor, nn

from ..calls import GRADIENT_COST
from ..core import Core, Guidance, ReportingCore, RunContext, Site
from ..errors import ConflictError, UnsupportedError
from ..families.base import OfSession, take_rows, with_prediction
from .arguments import as_given, by_name
from .cfg import BranchName, Calls, CFGBranches, calling_pipeline
from .checkpointing import Replay
from .conflicts import check_second_pass
from .layouts import LayoutReader
from .preparing import Preparing
from .reorder import TokenReordering, diffusers_modules
from .second_text import TextCalls
from .steps import StepIndices, timestep_of
from .swap import Swap
from .timing import Timer


class DenoiserHook(OfSession, ModelHook):
    """Runs one denoiser under a session.

    Without guidance it only records layout, step and pass. With guidance it runs the conditional rows once
    more with `run.perturbed` set, and adds `delta` to every row. Classifier-free guidance weights its
    branches by numbers that sum to one. So one `delta` comes out, whatever the pipeline's scale is.
    A method with a second text has it added to the calls that need it, and to the extra pass.

    Several threads may call, each with a pipeline of its own. Calls take turns, and each pipeline has its own
    counters.
    """

    _is_stateful = True

    def __init__(
        self,
        session: Any,
        swap: Swap,
        branches: CFGBranches,
        reordering: TokenReordering,
        scheduled: Sequence[ReportingCore],
        guidance: Guidance | None,
        guided: Mapping[Site, Core],
        second: TextCalls | None = None,
        preparing: Preparing | None = None,
    ) -> None:
        """Store the parts; `scheduled` cores prepare for calls, `guided` are the cores of `guidance`."""
        super().__init__()
        self.session = session  # found here by summary() and remove()
        self.family = branches.family
        self.run: RunContext = session.run
        self.step_indices: StepIndices = session.step_indices
        self.layouts = LayoutReader(self.family)
        self.swap = swap
        self.branches = branches
        self.reordering = reordering
        self.scheduled = scheduled
        self.guidance = guidance
        self.guided = dict(guided)
        self.second = second
        # by method that must know which rows are conditional, whether it needs linear branches
        self.linear = {guidance.name: True} if guidance is not None else {}
        self.linear |= {second.method.name: False} if second is not None else {}
        self.preparing = preparing
        self.parts = diffusers_modules(swap.model)
        self.replay = Replay(self.run, session.lock, self._why_not_again)
        self.calls = 0
        self.extra_passes = 0
        self.extra_evaluations = 0  # what they cost, in rows that only run forward
        self.acted: set[int] = set()  # the `id` of methods that acted in the current call
        self.timer = Timer()
        self.extra_timer = Timer()
        # cache_context() of diffusers pipelines writes "cond" or "uncond" here, by this name
        self._context = BranchName()
        # by calling pipeline, then by the candidates in the call
        self._made: WeakKeyDictionary[Any, dict[Hashable, Calls]] = WeakKeyDictionary()
        self._made_bare = Calls()

    def reset_state(self, module: nn.Module) -> nn.Module:
        """Forget the trajectory of the pipeline that calls, or of all pipelines if none calls.

        Pipelines call this after each run.
        """
        if (caller := calling_pipeline()) is not None:
            self._made.pop(caller, None)
            return module
        self._made.clear()
        self._made_bare = Calls()
        return module

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        # A wrapper that was put on `forward` while the session was open keeps this hook in its chain.
        if self.session.closed:
            return self.fn_ref.original_forward(*args, **kwargs)
        with self.session.lock:
            return self._under_session(module, args, kwargs)

    def _under_session(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        call = by_name(module, args, kwargs)
        caller = calling_pipeline()
        pipe = self.branches.home if caller is None else caller
        if self.linear:
            self.branches.check_caller(caller)
        self._check_processors(pipe)
        made = self._read(module, call, pipe, calling=caller is not None)
        self.acted.clear()
        like = _latents(call) if self.scheduled else None
        for core in self.scheduled:
            core.begin_call(like)
        try:
            if self.preparing is not None:
                args, kwargs = self._prepared(module, call, pipe, args, kwargs)
            run, _ = self.step_indices.of(pipe).point()
            if self.second is not None and (more := self.second.added(module, call, pipe, run)) is not None:
                call, (args, kwargs) = more, as_given(more, module, args, kwargs)
                self.step_indices.of(pipe).second_texts += 1
                self.acted.add(id(self.second.method))
            with self.replay.around(module, self.calls):
                out = self._forward(module, call, made, pipe, args, kwargs)
        finally:
            self.run.second_text = 0  # blocks called outside have the prompt alone
            self.run.cross_text = None
        self.session.notes.take(self.run, self.swap, self.acted)
        self.session.remark(self.step_indices.of(pipe))
        return out

    def _why_not_again(self, number: int) -> str | None:
        """Return why blocks of a call, by its number, cannot run again as they ran; `None` if they can."""
        names = " and ".join(method.name for method in self.session.methods)
        if self.session.closed:
            return f"the session with {names} was closed" if names else None
        if number == self.calls or not (self.scheduled or self.guided):
            return None
        return f"{names} has prepared for another call of the denoiser since then"

    def _prepared(
        self,
        module: nn.Module,
        call: dict[str, Any],
        pipe: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Let methods act before the call; return its arguments in the form that they had."""

        def forward(again: dict[str, Any]) -> Any:
            some, named = as_given(again, module, args, kwargs)
            self.extra_passes += 1
            self.extra_evaluations += GRADIENT_COST
            return self.fn_ref.original_forward(*some, **named)

        for method in self.preparing.methods_that_run_again:
            check_second_pass(method, module, self.parts)
        rows = self._conditional_rows(self.family.batch(call), pipe)
        run, _ = self.step_indices.of(pipe).point()
        # The way back is not part of `forward`, and takes longer.
        with self.extra_timer if self.preparing.methods_that_run_again else nullcontext():
            self.acted |= self.preparing.before(call, rows, pipe, run, forward)
        return as_given(call, module, args, kwargs)

    def _forward(
        self,
        module: nn.Module,
        call: dict[str, Any],
        made: Calls,
        pipe: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        forward = self.fn_ref.original_forward
        if (reordered := self.reordering.around(module, call, forward)) is not None:
            args, kwargs, forward = (), call, reordered
        if self.guidance is None or not self.guidance.active(self.run):
            with self.timer:
                return forward(*args, **kwargs)
        check_second_pass(self.guidance, module, self.parts)
        if call.get("skip_layers") is not None or self.run.pass_ == "uncond":
            # Skip-layer guidance subtracts its prediction from the conditional one: the same delta cancels.
            with self.timer:
                out = forward(*args, **kwargs)
            return _shifted(out, self._stored(out, made, pipe))

        batch = self.family.batch(call)
        rows = self._conditional_rows(batch, pipe)
        # Taken before the first pass, which may pop entries from the dictionaries it was given.
        again = take_rows(call, batch, rows, self.family.unbatched)
        with self.timer:
            out = forward(*args, **kwargs)
        if self.session.closed:  # during the first pass: the perturbed one would find no cores
            return out
        cond = _prediction(out)[rows]
        self.guidance.begin_pass(self.guided, cond.shape[0], cond)
        perturbed = self._perturbed(forward, rows, *as_given(again, module, args, kwargs))
        self.step_indices.of(pipe).extra_passes += 1
        made.delta = self.guidance.delta(cond, perturbed)
        return _shifted(out, made.delta)

    def _perturbed(
        self, forward: Callable[..., Any], rows: slice, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Tensor:
        self.run.perturbed, text = True, self.run.cross_text
        if text is not None:
            self.run.cross_text = text.take(rows)
        try:
            with self.extra_timer:
                out = forward(*args, **kwargs)
        finally:
            self.run.perturbed, self.run.cross_text = False, text
        self.extra_passes += 1
        self.extra_evaluations += 1
        self.acted.add(id(self.guidance))
        return _prediction(out)

    def _read(self, module: nn.Module, call: Mapping[str, Any], pipe: Any, calling: bool) -> Calls:
        """Bring `run` up to date; raise if guidance does not know this call."""
        self.calls += 1
        self.run.layout = self.layouts.read(module, call)
        step_index = self.step_indices.of(pipe)
        step_index.read(pipe, partial(timestep_of, self.family, call), self.run, calling)
        made = self._made_bare if pipe is None else self._made_by(pipe)
        run, point = step_index.point()
        if point is None and (self.linear or self.branches.mode(pipe) == "two_calls"):
            point = timestep_of(self.family, call)
        first = made.note(run, point)
        self.run.pass_ = self.branches.read(pipe, self._context.name, made.count)
        skipping = call.get("skip_layers") is not None  # skip-layer guidance has the conditional rows alone
        for name, linear in self.linear.items():
            if first:
                self.branches.check_run(pipe, name, self.run.pass_, _latents(call), linear)
            if not skipping:
                self.branches.check_count(pipe, name, made.count)
        if skipping:
            self.run.pass_ = "cond"
        return made

    def _made_by(self, pipe: Any) -> Calls:
        """Return the calls of a pipeline with the candidates of this one: each group has its branches."""
        return self._made.setdefault(pipe, {}).setdefault(self.run.rows, Calls())

    def _conditional_rows(self, batch: int, pipe: Any) -> slice:
        if self.run.pass_ != "both":
            return slice(0, batch)
        if batch % 2:
            raise UnsupportedError(
                "Classifier-free guidance in one batch needs an even number of rows, unconditional first; "
                f"got {batch} from {_caller_name(pipe)}; pass cfg='two_calls' for a call per branch."
            )
        return slice(batch // 2, batch)

    def _stored(self, out: Any, made: Calls, pipe: Any) -> Tensor:
        if made.delta is None or made.delta.shape[0] != _prediction(out).shape[0]:
            raise UnsupportedError(
                f"{self.guidance.name} needs the conditional prediction before the others of a step, but "
                f"{_caller_name(pipe)} asked in another order; call the denoiser conditional first."
            )
        return made.delta

    def _check_processors(self, pipe: Any) -> None:
        """Raise if our processors are gone from the sites of a method, which would then do nothing."""
        gone = self.swap.gone()
        foreign = {site: method.name for method, sites in self.session.acting for site in sites & gone}
        pag = getattr(pipe, "do_perturbed_attention_guidance", False)
        if not foreign and not (pag and self.linear):
            return
        names, paths = " and ".join(dict.fromkeys(foreign.values())), sorted(s.path for s in foreign)
        if pag:
            # diffusers puts its processors in before its first step, and would take them out after its last.
            self.session.put_back()
            clash = (
                f"{self.guidance.name} and the host's own perturbed-attention guidance both add a pass"
                if self.guidance is not None
                else f"{self.second.method.name} and the host's own perturbed-attention guidance, which adds "
                "rows of its own, do not know each other's rows"
                if self.second is not None
                else f"{names} and the host's own perturbed-attention guidance both act on {', '.join(paths)}"
            )
            raise ConflictError(f"{clash}; set pag_scale=0 or use the pipeline without PAG.")
        raise RuntimeError(
            f"{names}: processors of {', '.join(paths)} were replaced after apply(), so the method would "
            "miss them; close the session and apply again."
        )


def _caller_name(pipe: Any) -> str:
    return "the caller" if pipe is None else type(pipe).__name__


def _latents(call: Mapping[str, Any]) -> Tensor:
    return next(x for x in call.values() if isinstance(x, Tensor) and x.ndim > 2)


def _prediction(out: Any) -> Tensor:
    return out[0]


def _shifted(out: Any, delta: Tensor) -> Any:
    pred = _prediction(out)
    # One batch of both branches: unconditional rows first, the same delta for either half.
    return with_prediction(out, pred + (delta if len(pred) == len(delta) else torch.cat([delta, delta])))
