"""`apply`: plan, check for conflicts, swap processors, hook the denoiser; and put everything back exactly."""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from diffusers.hooks.hooks import HookRegistry
from torch import nn

from . import hook as hooks
from .branches import Branches, Cfg
from .clock import Clock
from .core import Core, Method, ReportingCore, RunContext, Site, Slot
from .errors import ConflictError, MethodError, UnsupportedError
from .families import FAMILIES, family_of
from .families.base import Family, FamilyProcessor
from .report import Report, SiteReport

COMPONENTS = ("unet", "transformer", "transformer_2")
# Each core wraps the ones before it: inputs act before the core, outputs after it, whatever the user's order.
BINDING = (Slot.CORE, Slot.INPUTS, Slot.OUTPUT, Slot.OBSERVE, Slot.DENOISER)


@dataclass(frozen=True)
class _Denoiser:
    component: str
    model: nn.Module
    family: Family
    sites: tuple[Site, ...]


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
    return Session(target, methods, cfg)


class Session:
    """Methods in force on the denoisers of one pipeline. All mutable state lives here and dies here."""

    def __init__(self, target: Any, methods: Iterable[Method], cfg: Cfg = "auto") -> None:
        self.methods = tuple(methods)
        self.run = RunContext()
        self.closed = False
        self._swapped: list[tuple[Site, nn.Module, Any, FamilyProcessor]] = []
        self._undo: list[Any] = []
        self._hooks: list[hooks.DenoiserHook] = []
        self._reporting: dict[Site, ReportingCore] = {}
        self._cores: dict[int, dict[Site, Core]] = {id(m): {} for m in self.methods}
        self._denoisers = [_inspect(component, model) for component, model in denoisers(target).items()]
        self._selected = _select(self.methods, [s for d in self._denoisers for s in d.sites])
        guidance = [m for m in self.methods if Slot.DENOISER in m.slots]
        _check_conflicts(self.methods, self._selected, self._denoisers)
        pipe = None if isinstance(target, nn.Module) else target
        self._pipe = pipe
        for denoiser in self._denoisers if guidance else ():
            Branches(cfg, pipe, denoiser.family).check(guidance[0].name)
        clock = Clock(pipe)
        try:
            for denoiser in self._denoisers:
                self._install(denoiser, clock, cfg, guidance[0] if guidance else None)
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

    def _orphans(self) -> list[str]:
        """What went past the session while it was open."""
        notes = [
            f"{d.component} was exchanged while the session was open, the new one ran without methods"
            for d in self._denoisers
            if self._pipe is not None and getattr(self._pipe, d.component, None) is not d.model
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

    def _install(self, denoiser: _Denoiser, clock: Clock, cfg: Cfg, guidance: Any) -> None:
        modules = dict(denoiser.model.named_modules())
        touched = [
            s
            for s in denoiser.sites
            if not self.methods or any(s in self._selected[id(m)] for m in self.methods)
        ]
        _check_stock(denoiser, touched, modules)
        cores: dict[Site, Any] = {}
        processors: dict[Site, FamilyProcessor] = {}
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
            processors[site] = ours
            _set_processor(module, ours)
            self._swapped.append((site, module, old, ours))
        hook = hooks.DenoiserHook(
            denoiser.family,
            self.run,
            clock,
            Branches(cfg, clock.pipe, denoiser.family),
            guidance if cores else None,
            cores,
            processors,
        )
        hook.session = self
        hook.scheduled = [self._reporting[site] for site in touched if site in self._reporting]
        hook.hoisting.cores = [core for core in hook.scheduled if hasattr(core, "order")]
        hook.hoisting.bound = [
            method.name
            for method in self.methods
            if not getattr(method, "order_free", False) and self._selected[id(method)] & set(touched)
        ]
        self._undo.append(hooks.install(denoiser.model, hook))
        self._hooks.append(hook)


def denoisers(target: Any) -> dict[str, nn.Module]:
    """Component name -> denoiser of a pipeline, or `{"": denoiser}`; raises `UnsupportedError` where there is
    none.
    """
    if isinstance(target, nn.Module):
        return {"": target}
    found = {
        name: model for name in COMPONENTS if isinstance(model := getattr(target, name, None), nn.Module)
    }
    if not found:
        raise UnsupportedError(
            f"{type(target).__name__} has none of the components {', '.join(COMPONENTS)}; known denoisers "
            "are "
            f"{', '.join(FAMILIES)}: pass a pipeline that holds one, or the denoiser itself."
        )
    return found


def session_of(model: nn.Module) -> Session | None:
    """The session in force on a denoiser."""
    registry = getattr(model, "_diffusers_hook", None)
    hook = registry.get_hook(hooks.NAME) if isinstance(registry, HookRegistry) else None
    return hook.session if hook is not None else None


def _inspect(component: str, model: nn.Module) -> _Denoiser:
    if hasattr(model, "_orig_mod") or getattr(model, "_compiled_call_impl", None) is not None:
        raise UnsupportedError(
            f"{component or type(model).__name__} is compiled as a whole, which hides its attention modules; "
            "compile its blocks (compile_repeated_blocks() or block.compile()), before or after apply()."
        )
    family = family_of(model)
    if getattr(model, "_parallel_config", None) is not None:
        raise UnsupportedError(
            f"{component or type(model).__name__} runs under context or tensor parallelism, which splits "
            "what our attention must see whole; load it without enable_parallelism()."
        )
    if session_of(model) is not None:
        raise ConflictError(
            f"{component or type(model).__name__} is under a session already; pass both methods to one "
            "apply(), "
            "or close the first session."
        )
    return _Denoiser(component, model, family, tuple(family.sites(model, component)))


def _select(methods: tuple[Method, ...], sites: list[Site]) -> dict[int, frozenset[Site]]:
    selected = {}
    for method in methods:
        if not hasattr(method, "slots"):
            raise MethodError(f"apply() takes methods such as SoftPAG(...), got {type(method).__name__}.")
        picked = method.select(sites)
        if not picked:
            raise MethodError(
                f"{method.name} touches no attention module of this model; see dx.summary(pipe) for its "
                "sites."
            )
        for site in picked:
            if (why := method.why_not(site, None)) is not None:
                raise UnsupportedError(f"{why}; choose other modules (see dx.summary(pipe)).")
        selected[id(method)] = frozenset(picked)
    return selected


def _check_conflicts(
    methods: tuple[Method, ...], selected: dict[int, frozenset[Site]], found: list[_Denoiser]
) -> None:
    for i, first in enumerate(methods):
        for second in methods[i + 1 :]:
            if Slot.DENOISER in first.slots & second.slots:
                raise ConflictError(
                    f"{first.name} and {second.name} both add a guidance pass and only one can; "
                    "merge their head sets into one method."
                )
            shared = selected[id(first)] & selected[id(second)]
            if Slot.CORE in first.slots & second.slots and shared:
                names = ", ".join(sorted(s.path for s in shared))
                raise ConflictError(
                    f"{first.name} and {second.name} both decide how attention is computed at {names}; "
                    "give each its own layers."
                )
    for method in methods:
        for denoiser in found:
            if Slot.DENOISER in method.slots and getattr(denoiser.model, "is_cache_enabled", False):
                raise ConflictError(hooks.cache_conflict(method.name, type(denoiser.model).__name__))


def _check_stock(denoiser: _Denoiser, touched: list[Site], modules: dict[str, nn.Module]) -> None:
    foreign = {
        site.path: type(modules[site.name].processor).__name__
        for site in touched
        if type(modules[site.name].processor).__name__ not in denoiser.family.stock
    }
    if foreign:
        path, name = next(iter(foreign.items()))
        raise UnsupportedError(
            f"{len(foreign)} attention modules, first {path}, run {name}, which is not one of the processors "
            "we "
            f"reproduce ({', '.join(sorted(denoiser.family.stock))}); undo what installed it (IP-Adapter, "
            "attention "
            "slicing, xformers), or choose other modules."
        )


def _set_processor(module: nn.Module, processor: Any) -> None:
    if hasattr(module, "set_processor"):
        module.set_processor(processor)
    else:
        module.processor = processor
