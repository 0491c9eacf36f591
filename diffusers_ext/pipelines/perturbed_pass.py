"""One perturbed call of a denoiser that someone else calls, as guiders of modular pipelines have it."""

from typing import Any

from diffusers.hooks.hooks import ModelHook
from torch import Tensor, nn

from ..core import RunContext, Site
from ..processors.softpag import SoftPAG
from ..session.arguments import by_name
from ..session.checks import check_stock, inspect, select
from ..session.conflicts import check_second_pass
from ..session.registration import install
from ..session.reorder import diffusers_modules
from ..session.swap import Swap

NAME = "diffusers_ext_guider"  # name of the hook


class PerturbedPass:
    """Processors of SoftPAG for one denoiser, which are in place for one call at a time.

    `open()` puts them in place, and the end of the next call puts the old ones back, also if it raises.
    Raises `UnsupportedError` for a denoiser or a processor that no family knows, `ConflictError` for a
    denoiser under a session, and `MethodError` for heads that it does not have.
    """

    def __init__(self, method: SoftPAG, model: nn.Module) -> None:
        self.method = method
        self.denoiser = inspect("", model)
        self.parts = diffusers_modules(model)
        self.run = RunContext()
        self.processors, self.cores = {}, {}
        for site in select((method,), list(self.denoiser.sites))[id(method)]:
            processor = self.denoiser.family.processor(site, self.run)
            processor.reads_layout = method.reads_layout
            processor.core = self.cores[site] = method.bind(site, self.run, processor.core)
            self.processors[site] = processor
        self._opened: _Opened | None = None

    def open(self, step: int, steps: int) -> None:
        """Put the processors in place for the next call, which is at `step` of `steps`."""
        inspect("", self.denoiser.model)  # there may be a session by now
        check_stock(self.denoiser, list(self.processors))
        check_second_pass(self.method, self.denoiser.model, self.parts)
        self.run.step, self.run.steps = step, steps
        self._opened = _Opened(self)

    def abandon(self) -> None:
        """Put the old processors back after a call that did not come, or did not end."""
        opened, self._opened = self._opened, None
        if opened is not None:
            opened.put_back()

    def close(self) -> None:
        """Put the old processors back, if they are not back already.

        Raises `RuntimeError` if the call that has ended did not run all of the processors.
        """
        opened, self._opened = self._opened, None
        if opened is None:
            return
        opened.put_back()
        if opened.raised:
            return
        if not opened.called:
            raise RuntimeError(
                f"{type(self.denoiser.model).__name__} was not called between prepare_models and "
                "cleanup_models, so nothing was perturbed; call the denoiser that was prepared."
            )
        if opened.missed:
            paths = ", ".join(sorted(site.path for site in opened.missed))
            raise RuntimeError(
                f"the perturbed call did not run {paths}, which were to be perturbed; undo what replaced "
                "processors or forward of the denoiser."
            )

    def begin(self, call: dict[str, Any]) -> None:
        """Read the layout of a call, and prepare the cores for it."""
        model, family = self.denoiser.model, self.denoiser.family
        self.run.layout = family.layout(model, call)
        like = next(x for x in call.values() if isinstance(x, Tensor) and x.ndim > 2)
        self.method.begin_pass(self.cores, family.batch(call), like)


class _Opened(ModelHook):
    """The hook of one perturbed call."""

    def __init__(self, owner: PerturbedPass) -> None:
        super().__init__()
        self.owner = owner
        self.called = self.raised = False
        self.missed: list[Site] = []  # whose processors did not run
        model = owner.denoiser.model
        self._swap = Swap(model, owner.denoiser.sites)
        self._swap.put(owner.processors)
        self._counts = self._counted()
        self._undo = install(model, self, NAME)

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if self._undo is None:  # a wrapper that was put on `forward` kept this hook in its chain
            return self.fn_ref.original_forward(*args, **kwargs)
        self.called = self.raised = True
        try:
            self.owner.begin(by_name(module, args, kwargs))
            self.owner.run.perturbed = True
            out = self.fn_ref.original_forward(*args, **kwargs)
            self.raised = False
            return out
        finally:
            if not self._compiled():
                counts = self._counted()
                self.missed = [site for site, before in self._counts.items() if counts[site] == before]
            self.put_back()

    def put_back(self) -> None:
        """Take off hook and processors; a second call does nothing."""
        self.owner.run.perturbed = False
        undo, self._undo = self._undo, None
        if undo is not None:
            undo()
            self._swap.restore()

    def _counted(self) -> dict[Site, int]:
        return {site: processor.calls for site, processor in self.owner.processors.items()}

    def _compiled(self) -> bool:
        """Return whether blocks are compiled, where calls are not counted."""
        parts = self.owner.parts.values()
        return any(getattr(part, "_compiled_call_impl", None) is not None for part in parts)
