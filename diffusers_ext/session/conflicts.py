"""Find what cannot be in force together: two owners of a slot, or a cache and what it would spoil."""

from collections.abc import Iterable, Mapping, Sequence

from torch import nn

from ..calls import PromptMethod
from ..core import Guidance, Method, SecondText, Site, Slot
from ..errors import ConflictError
from .reorder import diffusers_modules, replaced_forward
from .second_text import check_cache


def check_conflicts(
    methods: Sequence[Method], selected: Mapping[int, frozenset[Site]], models: Iterable[nn.Module]
) -> None:
    """Raise `ConflictError` for two owners of a slot, lost gradients, and for what a cache would spoil.

    `selected` has the sites of each method by its `id`.
    """
    for i, first in enumerate(methods):
        for second in methods[i + 1 :]:
            if isinstance(first, Guidance) and isinstance(second, Guidance):
                raise ConflictError(
                    f"{first.name} and {second.name} both add a guidance pass and only one can; "
                    "merge their head sets into one method."
                )
            shared = selected[id(first)] & selected[id(second)]
            names = ", ".join(sorted(s.path for s in shared))
            if isinstance(first, SecondText) and isinstance(second, SecondText):
                raise ConflictError(
                    f"{first.name} and {second.name} both bring a second text to {names}, and a call takes "
                    "one; apply one of them."
                )
            if Slot.CORE in first.slots & second.slots and shared:
                raise ConflictError(
                    f"{first.name} and {second.name} both decide how attention is computed at {names}; "
                    "give each its own layers."
                )
            for one, other in ((first, second), (second, first)):
                if Slot.CORE in one.slots and other.needs_dense and shared:
                    raise ConflictError(
                        f"{one.name} decides how attention is computed at {names}, where {other.name} needs "
                        "all of it with these settings; give each its own layers."
                    )
        _check_gradients(first, [m for m in methods if not m.differentiable], selected)
    for method in methods:
        for model in models if runs_again(method) else ():
            check_second_pass(method, model, diffusers_modules(model))
        for model in models if isinstance(method, SecondText) else ():
            check_cache(method, model)


def _check_gradients(
    method: Method, opaque: Sequence[Method], selected: Mapping[int, frozenset[Site]]
) -> None:
    """Raise `ConflictError` if a method needs gradients that another one does not pass on."""
    if not opaque or not getattr(method, "moves_latents", False):
        return
    names = ", ".join(sorted(site.path for site in selected[id(opaque[0])]))
    raise ConflictError(
        f"{method.name} moves the latents along gradients, which do not pass through {opaque[0].name} at "
        f"{names}; apply one of them, or another sparse method."
    )


def runs_again(method: Method) -> bool:
    """Return whether a method runs the denoiser more than once a step."""
    return isinstance(method, Guidance) or (isinstance(method, PromptMethod) and method.moves_latents)


def check_second_pass(method: Method, model: nn.Module, parts: Mapping[str, nn.Module]) -> None:
    """Raise `ConflictError` if a denoiser keeps results of one pass that the other would use.

    `parts` are the modules of diffusers inside `model`, by path.
    """
    if getattr(model, "is_cache_enabled", False):
        raise ConflictError(
            f"{method.name} runs the denoiser twice per step, which would poison the residuals kept by the "
            f"cache enabled on {type(model).__name__}; call disable_cache() first."
        )
    if (part := replaced_forward(model, parts)) is not None:
        raise ConflictError(
            f"{method.name} runs the denoiser twice per step, but forward of {part} was replaced, as caches "
            "such as DeepCache do, and what is kept from one pass would be used in the other; put the "
            "forward of the model back (disable the cache)."
        )
