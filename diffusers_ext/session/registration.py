"""Put a hook on a denoiser below those of accelerate, and take it off without a trace."""

from collections.abc import Callable

from diffusers.hooks.hooks import HookRegistry, ModelHook
from torch import nn

NAME = "diffusers_ext"  # name of the hook of a session


def install(model: nn.Module, hook: ModelHook, name: str) -> Callable[[], str | None]:
    """Register a hook and return its undo, which restores `forward` or returns the reason why not.

    accelerate's offload hooks keep what they wrapped in `_old_forward` and put it back after each pipeline
    call. So our hook must be below them, or it would be gone from the second image on.
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
        registry.remove_hook(name, recurse=False)  # makes `forward` what was below our hook
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
