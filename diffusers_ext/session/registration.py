"""Put a hook on a denoiser below those of accelerate, and take it off without a trace."""

from collections.abc import Callable

from diffusers.hooks.hooks import HookFunctionReference, HookRegistry, ModelHook
from torch import nn

NAME = "diffusers_ext"  # name of the hook of a session


class _Reference(HookFunctionReference):
    """The place of our hook in the chain of a registry, where other hooks come off below it.

    A registry then writes what was below into `forward` of the hook above. Such a hook has put its own code
    there, if it has any, and would be lost with it. What it calls is `original_forward`.
    """

    @property
    def forward(self) -> Callable:
        """The code of our hook."""
        return vars(self)["forward"]

    @forward.setter
    def forward(self, below: Callable) -> None:
        self.original_forward = below


def install(model: nn.Module, hook: ModelHook, name: str) -> Callable[[], str | None]:
    """Register a hook and return its undo, which restores `forward` or returns the reason why not.

    accelerate's offload hooks keep what they wrapped in `_old_forward` and put it back after each pipeline
    call. So our hook must be below them, or it would be gone from the second image on.
    """
    had_registry = hasattr(model, "_diffusers_hook")
    registry = HookRegistry.check_if_exists_or_initialize(model)
    if not had_registry:
        setattr(registry, NAME, True)  # goes with the last hook, whoever put that on
    offload = model.forward if hasattr(model, "_old_forward") else None
    if offload is not None:
        model.forward = model._old_forward
    registry.register_hook(hook, name)
    hook.fn_ref.__class__ = _Reference
    registry.invalidate_child_registries_cache()
    installed = model.forward
    if offload is not None:
        model._old_forward, model.forward = installed, offload

    def undo() -> str | None:
        top, later = model.forward, registry._hook_order[-1:] != [name]
        _remove(registry, name)  # makes `forward` what was below our hook
        registry.invalidate_child_registries_cache()
        if top is not installed and not later:
            below, model.forward = model.forward, top
            if getattr(model, "_old_forward", None) is not installed:
                return f"{type(model).__name__}.forward was replaced after apply(); it was left as it is"
            model._old_forward = below
        if not registry.hooks:
            if hasattr(registry, NAME):
                del model._diffusers_hook
            if getattr(vars(model).get("forward"), "__func__", None) is type(model).forward:
                del model.forward  # the class has the same one
        return None

    return undo


def _remove(registry: HookRegistry, name: str) -> None:
    """Take a hook off; the one above it goes on to run, as in `_Reference`."""
    if name not in registry.hooks:
        return
    place = registry._hook_order.index(name)
    above = registry._fn_refs[place + 1] if place + 1 < len(registry._fn_refs) else None
    kept = None if above is None else above.forward
    registry.remove_hook(name, recurse=False)
    if above is not None and above.original_forward is not None and not isinstance(above, _Reference):
        above.forward, above.original_forward = kept, above.forward
