"""Put methods on a pipeline: `apply` checks, swaps processors and hooks the denoiser; `close` undoes it."""

import html
import threading
import warnings
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from ..calls import PromptMethod
from ..core import Core, Guidance, Method, OrderingCore, ReportingCore, RunContext, SecondText, Site, Slot
from ..errors import MethodError
from ..families.base import Family, FamilyProcessor
from ..families.denoisers import denoisers
from ..versions import check as check_versions
from . import engagement
from .cfg import Cfg, CFGBranches
from .checks import (
    Denoiser,
    check_core,
    check_prompt_methods,
    check_stock,
    inspect,
    select,
    session_of,
)
from .conflicts import check_conflicts
from .hook import DenoiserHook
from .latents import exchange
from .notes import CallNotes
from .preparing import Preparing
from .registration import NAME, install
from .reorder import TokenReordering
from .report import Report, SiteReport
from .second_text import TextCalls
from .steps import StepIndex, StepIndices
from .swap import Swap
from .timing import SiteTimer

# Each core wraps the ones before it: inputs act before the core, outputs after it, whatever the user's order.
# A second text is taken out first, so that all others see one text at a time.
BINDING = (Slot.CORE, Slot.INPUTS, Slot.OUTPUT, Slot.OBSERVE, Slot.DENOISER, Slot.TEXT)


def apply(target: Any, *methods: Method, cfg: Cfg = "auto") -> "Session":
    """Put methods on a pipeline or a bare denoiser, at once.

    The session is a context manager and has `close()`. `cfg` says how classifier-free guidance reaches the
    denoiser. `"auto"` asks the pipeline, and means `"none"` for a bare denoiser. `"batch"` is one call with
    the unconditional rows first, `"two_calls"` has the conditional call first. Without any method every site
    gets our processor with the dense core, which changes nothing, bit for bit.

    Raises `UnsupportedError` (unknown class, foreign processors, a model compiled as one), `ConflictError`
    (second apply, two owners of a slot, an enabled cache) and `MethodError` (settings). If it raises, nothing
    has been swapped.
    """
    check_versions()
    return Session(target, methods, cfg)


def remove(target: Any) -> None:
    """Take off what `apply` put on a pipeline or a bare denoiser, as `close()` of its session does.

    It serves notebook cells that run twice, which have lost the session of their first run. Without a session
    nothing happens. Raises `UnsupportedError` if the target has no denoiser.
    """
    for model in denoisers(target).values():
        if (session := session_of(model)) is not None:
            session.close()


class Session:
    """Methods in force on the denoisers of one pipeline. All mutable state is on the session."""

    def __init__(self, target: Any, methods: Iterable[Method], cfg: Cfg = "auto") -> None:
        self.methods = tuple(methods)
        self.run = RunContext()
        self.step_indices = StepIndices()
        self.lock = threading.RLock()  # calls of the denoisers take turns: they share `run`
        self.closed = False
        self._remarked: set[int] = set()
        self._final: Report | None = None
        self._swaps: list[Swap] = []
        self._undo: list[Callable[[], str | None]] = []
        self._hooks: list[DenoiserHook] = []
        self._reporting: dict[Site, ReportingCore] = {}
        self._cores: dict[int, dict[Site, Core]] = {id(m): {} for m in self.methods}
        self.notes = CallNotes(self.methods, self._cores)
        self._denoisers = [inspect(component, model) for component, model in denoisers(target).items()]
        self._pipe = None if isinstance(target, nn.Module) else target
        check_prompt_methods(self.methods, self._denoisers, self._pipe)
        self._selected = select(self.methods, [s for d in self._denoisers for s in d.sites])
        self.acting = [(m, self._selected[id(m)]) for m in self.methods]
        self.run.layers = sum(len(sites) for m, sites in self.acting if Slot.CORE in m.slots)
        guidance = next((m for m in self.methods if isinstance(m, Guidance)), None)
        check_conflicts(self.methods, self._selected, [d.model for d in self._denoisers])
        branches = [CFGBranches(cfg, self._pipe, d.family) for d in self._denoisers]
        self._second = next((m for m in self.methods if isinstance(m, SecondText)), None)
        for each in branches:
            if guidance is not None:
                each.check(self._pipe, guidance.name)
            if self._second is not None:
                each.check(self._pipe, self._second.name, linear=False)
        try:
            for denoiser, each in zip(self._denoisers, branches, strict=True):
                self._install(denoiser, each, guidance)
            if mover := next((m for m in self.methods if getattr(m, "moves_latents", False)), None):
                self._undo.append(exchange(self._pipe, mover.name))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Restore processors and hooks; a second call does nothing."""
        if self.closed:
            return
        self.closed = True
        self.run.perturbed = False
        self._final = self.report()
        notes = [note for undo in reversed(self._undo) if (note := undo())]
        if foreign := [site.path for swap in self._swaps for site in swap.restore()]:
            sites = ", ".join(foreign)
            notes.append(f"the processors of {sites} were replaced by someone else and are left as they are")
        notes += self._orphans()
        if notes:
            warnings.warn(f"diffusers_ext: {'; '.join(notes)}.", stacklevel=2)

    def put_back(self) -> None:
        """Undo what diffusers exchanged for a call that is then refused, as `Swap.put_back` does."""
        for swap in self._swaps:
            swap.put_back()

    def remark(self, step_index: StepIndex) -> None:
        """Warn once of each method that changed nothing in the run that ends now."""
        if self.run.step is None or self.run.step + 1 < self.run.steps:
            return
        for method in self.methods:
            cores = [c for c in self._cores[id(method)].values() if isinstance(c, ReportingCore)]
            reasons = [core.idle() for core in cores]
            if isinstance(method, Guidance) and not step_index.extra_passes:
                reasons.append(method.idle(self.run))
            if isinstance(method, SecondText) and not step_index.second_texts:
                reasons.append(method.idle(self.run))
            if not reasons or None in reasons or id(method) in self._remarked:
                continue
            self._remarked.add(id(method))
            warnings.warn(
                f"diffusers_ext: {method.name} changed nothing in this run: {reasons[0]}.", stacklevel=2
            )

    def __repr__(self) -> str:
        on = ", ".join(d.component or type(d.model).__name__ for d in self._denoisers)
        methods = ", ".join(map(repr, self.methods)) or "no method"
        return f"<Session {'closed, was' if self.closed else 'open,'} on {on}: {methods}>"

    def _repr_html_(self) -> str:
        state = "closed" if self.closed else "open; <code>dx.remove(pipe)</code> takes it off"
        report = html.escape(str(self.report()))
        return f"<details><summary>{html.escape(repr(self))} ({state})</summary><pre>{report}</pre></details>"

    def _orphans(self) -> list[str]:
        """Return notes on changes that bypassed the session while it was open."""
        notes = [
            f"{d.component} was exchanged while the session was open, the new one ran without methods"
            for d in self._denoisers
            if self._pipe is not None and not _holds(getattr(self._pipe, d.component, None), d.model)
        ]
        ran = any(ours.calls for swap in self._swaps for ours in swap.processors.values())
        if self._hooks and ran and not any(hook.calls for hook in self._hooks):
            notes.append(
                "the hook on the denoiser was removed while the session was open, so guidance did not run"
            )
        return notes

    def report(self) -> Report:
        """Report what ran at each site until now; also after `close()`."""
        if self._final is not None:
            return self._final
        facts = {
            site: self._reporting[site].describe() if site in self._reporting else {}
            for swap in self._swaps
            for site in swap.processors
        }
        sites = [site for d in self._denoisers for site in d.sites]
        seconds = sum(h.timer.seconds for h in self._hooks)
        extra_seconds = sum(h.extra_timer.seconds for h in self._hooks)
        return Report(
            methods=self.methods,
            sites=tuple(
                SiteReport(
                    path=site.path,
                    kind=site.kind,
                    heads=site.heads,
                    methods=tuple(m.name for m in self.methods if site in self._selected[id(m)]),
                    calls=ours.calls,
                    **facts[site],
                )
                for swap in self._swaps
                for site, ours in swap.processors.items()
            ),
            denoiser_calls=sum(h.calls for h in self._hooks),
            extra_passes=sum(h.extra_passes for h in self._hooks),
            seconds=seconds,
            extra_seconds=extra_seconds,
            second_texts=sum(h.second.calls for h in self._hooks if h.second is not None),
            engaged=tuple(
                engagement.engaged(m, self._selected[id(m)], sites, self.notes, facts) for m in self.methods
            ),
            attention=engagement.attention_time(
                self._swaps, len(sites), self.notes, facts, seconds + extra_seconds
            ),
        )

    def cores(self, method: Method) -> dict[Site, Core]:
        """Return what a method put at its sites, for trainers that replace tensors of its cores.

        Raises `MethodError` for a method that is not of this session.
        """
        for mine in self.methods:
            if mine == method:
                return dict(self._cores[id(mine)])
        raise MethodError(
            f"A session has the cores of its own methods ({', '.join(m.name for m in self.methods)}), got "
            f"{method!r}; pass one of session.methods."
        )

    def _install(self, denoiser: Denoiser, branches: CFGBranches, guidance: Guidance | None) -> None:
        """Swap the processors of the methods' sites, or of all sites without methods; add the hook."""
        family, sites = denoiser.family, list(denoiser.sites)
        if self.methods:
            sites = [s for s in sites if any(s in self._selected[id(m)] for m in self.methods)]
        check_stock(denoiser, sites)
        swap = Swap(denoiser.model, denoiser.sites)
        self._swaps.append(swap)
        swap.put({site: self._processor(family, site) for site in sites})
        bound_here = (c for own in self._cores.values() for s, c in own.items() if s in swap.processors)
        scheduled = [core for core in bound_here if isinstance(core, ReportingCore)]
        ordering = [core for core in scheduled if isinstance(core, OrderingCore)]
        acting = [m for m in self.methods if self._selected[id(m)] & set(sites)]
        bound = [m.name for m in acting if not m.order_free]
        guided = self._cores[id(guidance)] if guidance is not None else {}
        guided = {site: core for site, core in guided.items() if site in swap.processors}
        prompted = [(m, self._cores[id(m)]) for m in acting if isinstance(m, PromptMethod)]
        hook = DenoiserHook(
            self,
            swap,
            branches,
            TokenReordering(family, self.run, ordering, bound, NAME),
            scheduled,
            guidance if guided else None,
            guided,
            self._text_calls(denoiser, frozenset(sites)),
            Preparing(self.run, family, prompted) if prompted else None,
        )
        self._undo.append(install(denoiser.model, hook, NAME))
        self._hooks.append(hook)

    def _text_calls(self, denoiser: Denoiser, sites: frozenset[Site]) -> TextCalls | None:
        """Return what adds the second text of a method to the calls of a denoiser, or `None`."""
        bound = sites & self._selected[id(self._second)] if self._second is not None else None
        if not bound:
            return None
        return TextCalls(self._second, denoiser.family, denoiser.model, self.run, bound, self._pipe)

    def _sparse(self, site: Site) -> Callable[[], bool]:
        """Return what says whether the method that computes attention at a site acted in a call."""
        owners = (self._cores[id(method)] for method in self.methods if Slot.CORE in method.slots)
        core = next((own[site] for own in owners if site in own), None)
        return core.acted if isinstance(core, ReportingCore) else lambda: core is not None

    def _processor(self, family: Family, site: Site) -> FamilyProcessor:
        """Return our processor of a site, with the cores of all methods that act there."""
        ours = family.processor(site, self.run)
        for method in sorted(self.methods, key=lambda m: min(BINDING.index(s) for s in m.slots)):
            if site in self._selected[id(method)]:
                ours.reads_layout |= method.reads_layout
                ours.reads_cross_text |= isinstance(method, PromptMethod) and Slot.INPUTS in method.slots
                ours.core = self._cores[id(method)][site] = method.bind(site, self.run, ours.core)
                check_core(method, ours.core)
                if isinstance(ours.core, ReportingCore):
                    self._reporting.setdefault(site, ours.core)
        if any(Slot.CORE in method.slots and method.saves_pairs for method in self.methods):
            ours.timer = SiteTimer(self._sparse(site))
        return ours


def _holds(current: Any, model: nn.Module) -> bool:
    """Return whether a component is a denoiser, or wraps it (torch.compile, PEFT)."""
    return isinstance(current, nn.Module) and any(part is model for part in current.modules())
