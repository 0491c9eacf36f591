"""Check the denoisers and the methods of a session, and raise with the reason if one cannot be used."""

from dataclasses import dataclass
from typing import Any

from diffusers.hooks.hooks import HookRegistry
from torch import nn

from ..calls import PromptMethod
from ..core import Core, Guidance, Method, ReportingCore, SecondText, Site, Slot
from ..errors import ConflictError, MethodError, UnsupportedError
from ..families import FAMILIES, family_of
from ..families.base import Family
from .prompts import check_prompts
from .registration import NAME


@dataclass(frozen=True)
class Denoiser:
    """A denoiser of a pipeline, with its family and its sites."""

    component: str
    model: nn.Module
    family: Family
    sites: tuple[Site, ...]


def session_of(model: nn.Module) -> Any:
    """Return the `Session` in force on a denoiser, or `None`."""
    registry = getattr(model, "_diffusers_hook", None)
    hook = registry.get_hook(NAME) if isinstance(registry, HookRegistry) else None
    return hook.session if hook is not None else None


def inspect(component: str, model: nn.Module) -> Denoiser:
    """Return a denoiser and its sites.

    Raises `UnsupportedError` or `ConflictError` if its processors must not be swapped.
    """
    if hasattr(model, "_orig_mod") or getattr(model, "_compiled_call_impl", None) is not None:
        raise UnsupportedError(
            f"{component or type(model).__name__} is compiled as a whole, which hides its attention modules; "
            f"compile its blocks ({_compile_hint(component, model)}), before or after apply()."
        )
    family = _known_family(component, model)
    if getattr(model, "_parallel_config", None) is not None:
        raise UnsupportedError(
            f"{component or type(model).__name__} runs under context or tensor parallelism, which splits "
            "what our attention must see whole; load it without enable_parallelism()."
        )
    if session_of(model) is not None:
        raise ConflictError(
            f"{component or type(model).__name__} is under a session already; pass both methods to one "
            "apply(), or take the first off with its close() or dx.remove()."
        )
    return Denoiser(component, model, family, tuple(family.sites(model, component)))


def _known_family(component: str, model: nn.Module) -> Family:
    """Return `family_of(model)`.

    For a wrapper (PEFT, DataParallel) the error says where the denoiser is inside.
    """
    try:
        return family_of(model)
    except UnsupportedError as error:
        inside = ((path, part) for path, part in model.named_modules() if type(part).__name__ in FAMILIES)
        path, part = next(inside, ("", None))
        if part is None:
            raise
        name = f"pipe.{component}" if component else "model"
        raise UnsupportedError(
            f"{name} is a {type(model).__name__} around a {type(part).__name__}, which hides the modules "
            f"that methods act on; set {name} = {name}.{path}, which keeps what the wrapper added inside, "
            "or load a LoRA with load_lora_weights()."
        ) from error


def _compile_hint(component: str, model: nn.Module) -> str:
    """Return the line of Python that compiles the blocks of this model."""
    inner = getattr(model, "_orig_mod", model)
    name = f"pipe.{component}" if component else "model"
    if getattr(inner, "_repeated_blocks", None):
        return f"{name}.compile_repeated_blocks()"
    lists = [part for part, module in inner.named_children() if isinstance(module, nn.ModuleList)]
    blocks = next((part for part in lists if part.endswith("blocks")), "transformer_blocks")
    return f"for block in {name}.{blocks}: block.compile()"


def select(methods: tuple[Method, ...], sites: list[Site]) -> dict[int, frozenset[Site]]:
    """Return the sites of each method by its `id`.

    Raises `MethodError` or `UnsupportedError` if there are none that it can act on.
    """
    selected = {}
    for method in methods:
        _check_kind(method)
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


def _instead(given: Any) -> str:
    """Say what to write in place of an object that is no method."""
    if isinstance(given, str):
        return f"dx.preset(pipe, {given!r}) makes the method of a name"
    if isinstance(given, (list, tuple)):
        return "give its methods one by one, as apply(pipe, *methods)"
    if hasattr(given, "sample"):
        return "a sampler is called by itself, as sampler.sample(pipe, prompt)"
    return "'diffusers-ext methods' lists them"


def _check_kind(method: Any) -> None:
    """Raise `MethodError` for an object that is no method, and for a base class without its slot."""
    if isinstance(method, type) and issubclass(method, Method):
        raise MethodError(
            f"apply() takes methods with their settings, got the class {method.__name__}; add brackets: "
            f"{method.__name__}()."
        )
    kind = type(method).__name__
    if not isinstance(method, Method):
        if hasattr(method, "slots") and hasattr(method, "bind"):
            kind = method.__name__ if isinstance(method, type) else kind
            raise MethodError(
                f"apply() takes methods that inherit from diffusers_ext.core.Method, got {kind}, which has "
                f"its names only; write class {kind}(Method)."
            )
        raise MethodError(f"apply() takes methods such as SoftPAG(...), got {kind}; {_instead(method)}.")
    for name in ("name", "slots"):
        if not hasattr(method, name):
            raise MethodError(f"A method has a name and slots, got {kind} without {name}; set {kind}.{name}.")
    for slot, base in ((Slot.DENOISER, Guidance), (Slot.TEXT, SecondText)):
        if (slot in method.slots) != isinstance(method, base):
            raise MethodError(
                f"A method with the slot {slot.name} inherits from diffusers_ext.core.{base.__name__}, and "
                f"no other does, got {kind} with only one of the two; add the other, or leave both out."
            )


def check_prompt_methods(methods: tuple[Method, ...], found: list[Denoiser], pipe: Any) -> None:
    """Raise `UnsupportedError` if a method reads the prompt and this target does not show it."""
    for method in methods:
        if not isinstance(method, PromptMethod):
            continue
        for denoiser in found:
            if (why := denoiser.family.hides_prompt(denoiser.model)) is not None:
                raise UnsupportedError(
                    f"{method.name} acts in cross-attention on the words of the prompt, but models of class "
                    f"{type(denoiser.model).__name__} {why}; use a Stable Diffusion 1, 2 or XL pipeline."
                )
        check_prompts(pipe, method.name)


def check_core(method: Method, core: Core) -> None:
    """Raise `MethodError` for a core that has the names of a reporting one and does not inherit from it."""
    names = [name for name in ("begin_call", "describe", "idle") if hasattr(core, name)]
    if names and not isinstance(core, ReportingCore):
        raise MethodError(
            f"A core with {' and '.join(names)} inherits from diffusers_ext.core.ReportingCore, or "
            f"OrderingCore, got {type(core).__name__} of {method.name}; write class "
            f"{type(core).__name__}(ReportingCore)."
        )


def check_stock(denoiser: Denoiser, touched: list[Site]) -> None:
    """Raise `UnsupportedError` if a touched module runs a processor that we do not reproduce."""
    running = {
        site.path: type(denoiser.model.get_submodule(site.name).processor).__name__ for site in touched
    }
    foreign = {path: name for path, name in running.items() if name not in denoiser.family.stock}
    if foreign:
        path, name = next(iter(foreign.items()))
        raise UnsupportedError(
            f"{len(foreign)} attention modules, first {path}, run {name}, which is not one of the processors "
            f"we reproduce ({', '.join(sorted(denoiser.family.stock))}); undo what installed it (IP-Adapter, "
            "attention slicing, xformers), or choose other modules."
        )
