"""`apply`: plan, check for conflicts, swap processors, hook the denoiser; and put everything back exactly."""

import html
import threading
import warnings
from collections.abc import Iterable
from typing import Any

from torch import nn

from . import hook as hooks
from .admission import Denoiser, check_conflicts, check_stock, denoisers, inspect, select, session_of
from .branches import Branches, Cfg
from .clock import Clock, Clocks
from .core import Core, Method, ReportingCore, RunContext, Site, Slot
from .errors import MethodError
from .families.base import FamilyProcessor
from .hoist import host_parts
from .report import Report, SiteReport
from .versions import check as check_versions

# Each core wraps the ones before it: inputs act before the core, outputs after it, whatever the user's order.
BINDING = (Slot.CORE, Slot.INPUTS, Slot.OUTPUT, Slot.OBSERVE, Slot.DENOISER)


def apply(target: Any, *methods: Method, cfg: Cfg = "auto") -> "Session":
    """Puts methods on a pipeline or a bare denoiser, at once; the session is a context manager and has
    `close()`.

    `cfg` says how classifier-free guidance reaches the denoiser: `"auto"` asks the pipeline (and means
    `"none"` for a bare denoiser), `"batch"` is one call with the unconditional rows first, `"two_calls"` the
    conditional call first. Without any method every site gets our processor with the dense core, which
    changes nothing, bit for bit.

    Raises `UnsupportedError` (unknown class, foreign processors, whole-model compile), `ConflictError`
    (second apply, two owners of a slot, an enabled cache) and `MethodError` (settings); then nothing has been
    swapped.
    """
    check_versions()
    return Session(target, methods, cfg)


def remove(target: Any) -> None:
    """Takes off what `apply` put on a pipeline or a bare denoiser, as `close()` of its session does.

    A notebook cell that runs twice has no name for the session of its first run. Without a session nothing
    happens. Raises `UnsupportedError` where the target has no denoiser.
    """
    for model in denoisers(target).values():
        if (session := session_of(model)) is not None:
            session.close()


class Session:
    """Methods in force on the denoisers of one pipeline. All mutable state lives here and dies here."""

    def __init__(self, target: Any, methods: Iterable[Method], cfg: Cfg = "auto") -> None:
        self.methods = tuple(methods)
        self.run = RunContext()
        self.clocks = Clocks()
        self.lock = threading.RLock()  # calls of the denoisers take turns: they share `run`
        self.closed = False
        self._remarked: set[int] = set()
        self._stock: list[tuple[nn.Module, Any]] = []  # every attention module with what belongs in it
        self._swapped: list[tuple[Site, nn.Module, Any, FamilyProcessor]] = []
        self._undo: list[Any] = []
        self._hooks: list[hooks.DenoiserHook] = []
        self._reporting: dict[Site, ReportingCore] = {}
        self._cores: dict[int, dict[Site, Core]] = {id(m): {} for m in self.methods}
        self._denoisers = [inspect(component, model) for component, model in denoisers(target).items()]
        self._selected = select(self.methods, [s for d in self._denoisers for s in d.sites])
        self.acting = [(m, self._selected[id(m)]) for m in self.methods]
        guidance = [m for m in self.methods if Slot.DENOISER in m.slots]
        check_conflicts(self.methods, self._selected, self._denoisers)
        pipe = None if isinstance(target, nn.Module) else target
        self._pipe = pipe
        for denoiser in self._denoisers if guidance else ():
            Branches(cfg, pipe, denoiser.family).check(pipe, guidance[0].name)
        try:
            for denoiser in self._denoisers:
                self._install(denoiser, cfg, guidance[0] if guidance else None)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Restores processors and hooks; harmless when called again."""
        if self.closed:
            return
        self.closed = True
        self.run.perturbed = False
        self._final = self.report()
        notes = [note for undo in reversed(self._undo) if (note := undo())]
        foreign = []
        for site, module, old, ours in self._swapped:
            if module.processor is ours:
                if hasattr(old, "_attention_backend"):  # may have been chosen while ours was in its place
                    old._attention_backend = ours._attention_backend
                _set_processor(module, old)
            else:
                foreign.append(site.path)
        if foreign:
            sites = ", ".join(foreign)
            notes.append(f"the processors of {sites} were replaced by someone else and are left as they are")
        self._clean_backups()
        notes += self._orphans()
        if notes:
            warnings.warn(f"diffusers_ext: {'; '.join(notes)}.", stacklevel=2)

    def put_back(self) -> None:
        """Puts the processors of an open session back where the host exchanged them for a call that is then
        refused: it would not take its own out.
        """
        for module, processor in self._stock:
            if module.processor is not processor:
                _set_processor(module, processor)

    def remark(self, clock: Clock) -> None:
        """Warns once of each method that changed nothing in the run which is in its last step."""
        if self.run.step is None or self.run.step + 1 < self.run.steps:
            return
        for method in self.methods:
            cores = [c for c in self._cores[id(method)].values() if hasattr(c, "idle")]
            reasons = [core.idle() for core in cores]
            if Slot.DENOISER in method.slots and not clock.extra_passes:
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
        """What went past the session while it was open."""
        notes = [
            f"{d.component} was exchanged while the session was open, the new one ran without methods"
            for d in self._denoisers
            if self._pipe is not None and not _holds(getattr(self._pipe, d.component, None), d.model)
        ]
        unseen = not any(hook.calls for hook in self._hooks) and any(ours.calls for *_, ours in self._swapped)
        if self._hooks and unseen:
            notes.append(
                "the hook on the denoiser was removed while the session was open, so guidance did not run"
            )
        return notes

    def _clean_backups(self) -> None:
        """UNet and SD3 keep the processors they had before fusing; ours must not come back from there."""
        stock = {id(ours): old for _, _, old, ours in self._swapped}
        for denoiser in self._denoisers:
            kept = getattr(denoiser.model, "original_attn_processors", None)
            for name, processor in (kept or {}).items():
                kept[name] = stock.get(id(processor), processor)

    def report(self) -> Report:
        """What ran where, so far; also after `close()`."""
        if self.closed and hasattr(self, "_final"):
            return self._final
        return Report(
            methods=self.methods,
            sites=tuple(
                SiteReport(
                    path=site.path,
                    kind=site.kind,
                    heads=site.heads,
                    methods=tuple(m.name for m in self.methods if site in self._selected[id(m)]),
                    calls=ours.calls,
                    **(self._reporting[site].describe() if site in self._reporting else {}),
                )
                for site, _, _, ours in self._swapped
            ),
            denoiser_calls=sum(h.calls for h in self._hooks),
            extra_passes=sum(h.extra_passes for h in self._hooks),
            seconds=sum(h.host_watch.seconds for h in self._hooks),
            extra_seconds=sum(h.extra_watch.seconds for h in self._hooks),
        )

    def cores(self, method: Method) -> dict[Site, Core]:
        """What a method put at its sites, for trainers that replace tensors of its cores.

        Raises `MethodError` for a method that is not of this session.
        """
        for mine in self.methods:
            if mine == method:
                return dict(self._cores[id(mine)])
        raise MethodError(
            f"A session has the cores of its own methods ({', '.join(m.name for m in self.methods)}), got "
            f"{method!r}; pass one of session.methods."
        )

    def _install(self, denoiser: Denoiser, cfg: Cfg, guidance: Any) -> None:
        modules = dict(denoiser.model.named_modules())
        touched = [
            s
            for s in denoiser.sites
            if not self.methods or any(s in self._selected[id(m)] for m in self.methods)
        ]
        check_stock(denoiser, touched, modules)
        cores: dict[Site, Any] = {}
        placed: dict[Site, tuple[nn.Module, FamilyProcessor]] = {}
        for site in touched:
            module = modules[site.name]
            old = module.processor
            ours = denoiser.family.processor(site, self.run)
            ours._attention_backend = getattr(old, "_attention_backend", None)
            for method in sorted(self.methods, key=lambda m: min(BINDING.index(s) for s in m.slots)):
                if site in self._selected[id(method)]:
                    ours.reads_layout |= getattr(method, "reads_layout", True)
                    ours.core = method.bind(site, self.run, ours.core)
                    self._cores[id(method)][site] = ours.core
                    if method is guidance:
                        cores[site] = ours.core
                    if hasattr(ours.core, "describe"):
                        self._reporting[site] = ours.core
            placed[site] = module, ours
            _set_processor(module, ours)
            self._swapped.append((site, module, old, ours))
        self._stock += [(modules[s.name], modules[s.name].processor) for s in denoiser.sites]
        hook = hooks.DenoiserHook(
            self,
            denoiser.family,
            Branches(cfg, self._pipe, denoiser.family),
            guidance if cores else None,
            cores,
            placed,
            host_parts(denoiser.model),
        )
        hook.scheduled = [self._reporting[site] for site in touched if site in self._reporting]
        hook.hoisting.cores = [core for core in hook.scheduled if hasattr(core, "order")]
        hook.hoisting.bound = [
            method.name
            for method in self.methods
            if not getattr(method, "order_free", False) and self._selected[id(method)] & set(touched)
        ]
        self._undo.append(hooks.install(denoiser.model, hook))
        self._hooks.append(hook)


def _holds(current: Any, model: nn.Module) -> bool:
    """Whether a component is a denoiser, or wraps it (torch.compile, PEFT)."""
    return isinstance(current, nn.Module) and any(part is model for part in current.modules())


def _set_processor(module: nn.Module, processor: Any) -> None:
    if hasattr(module, "set_processor"):
        module.set_processor(processor)
    else:
        module.processor = processor
