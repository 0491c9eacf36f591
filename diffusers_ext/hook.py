"""The one hook on a denoiser: reads the call, counts outside compiled regions, and makes the extra guidance
pass.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from diffusers.hooks.hooks import BaseState, HookRegistry, ModelHook, StateManager
from torch import Tensor, nn

from .branches import Branches
from .clock import Clock, Stopwatch
from .core import Core, Guidance, ReportingCore, RunContext, Site
from .errors import ConflictError, UnsupportedError
from .families.base import Family, FamilyProcessor, take_rows, with_prediction
from .hoist import Hoisting

NAME = "diffusers_ext"


class _Pass(BaseState):
    """Placeholder state: only the context name of the manager is read."""

    def reset(self) -> None:
        pass


class DenoiserHook(ModelHook):
    """Runs one denoiser under a session.

    Without guidance it only records layout, step and pass. With guidance it runs the conditional rows once
    more with `run.perturbed` set and adds `delta` to every row. Classifier-free guidance weights its branches
    by numbers that sum to one, so the same `delta` on all of them comes out as exactly one `delta`, whatever
    the host's scale is.
    """

    _is_stateful = True

    def __init__(
        self,
        family: Family,
        run: RunContext,
        clock: Clock,
        branches: Branches,
        guidance: Guidance | None,
        cores: Mapping[Site, Core],
        processors: Mapping[Site, FamilyProcessor],
    ) -> None:
        super().__init__()
        self.family = family
        self.run = run
        self.clock = clock
        self.branches = branches
        self.guidance = guidance
        self.cores = dict(cores)
        self.processors = dict(processors)
        self.session: Any = None  # set by the session, so that summary() finds it from the denoiser
        self.scheduled: list[ReportingCore] = []  # cores that want to know of each call; set by the session
        self.hoisting = Hoisting(family, run, NAME)
        self.calls = 0
        self.extra_passes = 0
        self.host_watch = Stopwatch()
        self.extra_watch = Stopwatch()
        # cache_context() of the host's pipelines writes "cond" or "uncond" here
        self._context = StateManager(_Pass)
        self._delta: Tensor | None = None  # of the current point of the trajectory

    def reset_state(self, module: nn.Module) -> nn.Module:
        """Forgets the trajectory; the host calls this between runs."""
        self.branches.forget()
        self._delta = None
        return module

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        call = by_name(module, args, kwargs)
        forward = self.fn_ref.original_forward
        if self.guidance is not None:
            self.branches.check_caller()
        self._read(module, call)
        if (hoisted := self.hoisting.around(module, call, forward)) is not None:
            args, kwargs, forward = (), call, hoisted
        if self.guidance is None or not self.guidance.active(self.run):
            with self.host_watch:
                out = forward(*args, **kwargs)
            return out
        self._refuse_conflicts(module)
        if call.get("skip_layers") is not None:
            # Skip-layer guidance subtracts this prediction from the conditional one: the same delta cancels.
            with self.host_watch:
                out = forward(*args, **kwargs)
            return _shifted(out, self._stored(out))
        if self.run.pass_ == "uncond":
            with self.host_watch:
                out = forward(*args, **kwargs)
            return _shifted(out, self._stored(out))

        batch = self.family.batch(call)
        rows = self._conditional_rows(batch)
        # Taken before the host's pass, which may pop entries from the dictionaries it was given.
        again = take_rows(call, batch, rows, self.family.unbatched)
        with self.host_watch:
            out = forward(*args, **kwargs)
        if self.session.closed:  # while the host's pass ran: the perturbed one would find no cores
            return out
        cond = _prediction(out)[rows]
        self.guidance.begin_pass(self.cores, cond.shape[0], cond)
        perturbed = self._perturbed(module, forward, again)
        self._delta = self.guidance.delta(cond, perturbed)
        return _shifted(out, self._delta)

    def _perturbed(self, module: nn.Module, forward: Callable[..., Any], call: dict[str, Any]) -> Tensor:
        foreign = [
            site.path
            for site in self.cores
            if module.get_submodule(site.name).processor is not self.processors[site]
        ]
        if foreign:
            raise RuntimeError(
                f"{self.guidance.name}: processors of {', '.join(foreign)} were replaced after apply(), so "
                "the perturbed pass would miss them; close the session and apply again."
            )
        self.run.perturbed = True
        try:
            with self.extra_watch:
                out = forward(**call)
        finally:
            self.run.perturbed = False
        self.extra_passes += 1
        return _prediction(out)

    def _read(self, module: nn.Module, call: Mapping[str, Any]) -> None:
        self.calls += 1
        timestep = self.family.timestep(call)
        value = float(timestep.max()) if isinstance(timestep, Tensor) else float(timestep)
        self.run.layout = self.family.layout(module, call)
        self.clock.read(value, self.run)
        if self.branches.moved((value, *self.clock.point())):
            self._delta = None
        context = self._context._context
        self.run.pass_ = self.branches.read(context.name if context is not None else None)
        for core in self.scheduled:
            core.begin_call(_latents(call))

    def _conditional_rows(self, batch: int) -> slice:
        if self.run.pass_ != "both":
            return slice(0, batch)
        if batch % 2:
            raise UnsupportedError(
                "Classifier-free guidance in one batch needs an even number of rows, unconditional first; "
                f"got {batch} from {self._host()}; pass cfg='two_calls' for a call per branch."
            )
        return slice(batch // 2, batch)

    def _stored(self, out: Any) -> Tensor:
        if self._delta is None or self._delta.shape[0] != _prediction(out).shape[0]:
            raise UnsupportedError(
                f"{self.guidance.name} needs the conditional prediction before the others of a step, but "
                f"{self._host()} asked in another order; call the denoiser conditional first."
            )
        return self._delta

    def _host(self) -> str:
        return "the caller" if self.clock.pipe is None else type(self.clock.pipe).__name__

    def _refuse_conflicts(self, module: nn.Module) -> None:
        if getattr(module, "is_cache_enabled", False):
            raise ConflictError(cache_conflict(self.guidance.name, type(module).__name__))
        if getattr(self.clock.pipe, "do_perturbed_attention_guidance", False):
            raise ConflictError(
                f"{self.guidance.name} and the host's own perturbed-attention guidance both add a pass; "
                "set pag_scale=0 or use the pipeline without PAG."
            )


def cache_conflict(method: str, denoiser: str) -> str:
    """Why a diffusers cache and a guidance method cannot share a denoiser."""
    return (
        f"{method} runs the denoiser twice per step, which would poison the residuals kept by the cache "
        f"enabled on {denoiser}; call disable_cache() first."
    )


def install(model: nn.Module, hook: ModelHook, name: str = NAME) -> Callable[[], str | None]:
    """Registers a hook; the undo that it returns restores `forward`, or says in a sentence why not.

    accelerate's offload hooks keep what they wrapped in `_old_forward` and put it back after each pipeline
    call, so ours has to sit below them, or it would be gone from the second image on.
    """
    had_registry = hasattr(model, "_diffusers_hook")
    registry = HookRegistry.check_if_exists_or_initialize(model)
    offload = model.forward if hasattr(model, "_old_forward") else None
    if offload is not None:
        model.forward = model._old_forward
    registry.register_hook(hook, name)
    registry.invalidate_child_registries_cache()
    installed = model.forward
    if offload is not None:
        model._old_forward, model.forward = installed, offload

    def undo() -> str | None:
        top, later = model.forward, registry._hook_order[-1:] != [name]
        registry.remove_hook(name, recurse=False)  # makes `forward` what was below ours
        registry.invalidate_child_registries_cache()
        if top is not installed and not later:
            below, model.forward = model.forward, top
            if getattr(model, "_old_forward", None) is not installed:
                return f"{type(model).__name__}.forward was replaced after apply(); it was left as it is"
            model._old_forward = below
        if not registry.hooks:
            if not had_registry:
                del model._diffusers_hook
            if getattr(vars(model).get("forward"), "__func__", None) is type(model).forward:
                del model.forward  # the class has the same one
        return None

    return undo


def by_name(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call of a denoiser, by name."""
    bound = inspect.signature(type(module).forward).bind(module, *args, **kwargs)
    call = dict(bound.arguments)
    call.pop("self")
    return call | call.pop("kwargs", {})


def _latents(call: Mapping[str, Any]) -> Tensor:
    return next(x for x in call.values() if isinstance(x, Tensor) and x.ndim > 2)


def _prediction(out: Any) -> Tensor:
    return out[0]


def _shifted(out: Any, delta: Tensor) -> Any:
    pred = _prediction(out)
    # One batch of both branches: unconditional rows first, the same delta for either half.
    return with_prediction(out, pred + (delta if len(pred) == len(delta) else torch.cat([delta, delta])))
