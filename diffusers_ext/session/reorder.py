"""Put grid tokens in the order of the plans once for a call of a denoiser, not in every layer.

All but attention is token-wise, and dense attention takes any order. So the input is reordered once, and the
prediction is put back. This is used only where it is exact. Positions must travel with the tokens
(`Family.token_axes`), and every hook and processor in the model must be one that does not look at single
tokens. Otherwise tokens are gathered in each layer.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..core import Order, OrderingCore, RunContext
from ..families.base import Family, FamilyProcessor, with_prediction

ONCE = "tokens put in order once a call"
# hooks of diffusers that move weights and never look at tokens; caches keep tokens from call to call
WEIGHTS_ONLY = frozenset(
    {
        "group_offloading",
        "lazy_prefetch_group_offloading",
        "layer_execution_tracker",
        "layerwise_casting",
        "peft_autocast_disable",
    }
)


class TokenReordering:
    """Decides for each call of one denoiser whether tokens are reordered once, and does it.

    `cores` are those that ask for an order. `bound` names the methods that may depend on raster order, and
    `own` is the name of our hook on the denoiser.
    """

    def __init__(
        self, family: Family, run: RunContext, cores: Sequence[OrderingCore], bound: Sequence[str], own: str
    ) -> None:
        self.family = family
        self.run = run
        self.cores = cores
        self.bound = bound
        self.own = own

    def around(
        self, module: nn.Module, call: Mapping[str, Any], forward: Callable[..., Any]
    ) -> Callable[..., Any] | None:
        """Wrap `forward` to run in the order of the cores, or return `None` to leave the call as it is.

        The wrapper takes arguments by name. If a core asks for an order, `run.order_note` says what was
        decided.
        """
        wishes = list({id(wish): wish for core in self.cores if (wish := core.order()) is not None}.values())
        if not wishes:
            return None
        why = self._why_not(module, call, wishes)
        self.run.order_note = ONCE if why is None else f"tokens put in order in every layer: {why}"
        if why is not None:
            return None

        def reordered(**call: Any) -> Any:
            self.run.reordered, self.run.order = True, wishes[0]
            try:
                out = forward(**call | self._moved(call, wishes[0].tokens))
            finally:
                self.run.reordered, self.run.order = False, None  # blocks called outside get raster order
            return with_prediction(out, _put(out[0], 1, wishes[0].places))

        return reordered

    def _moved(self, call: Mapping[str, Any], order: Tensor) -> dict[str, Tensor]:
        return {name: _put(call[name], axis, order) for name, axis in self.family.token_axes.items()}

    def _why_not(self, module: nn.Module, call: Mapping[str, Any], wishes: list[Order | str]) -> str | None:
        """Return `None` if the tokens of a call can be put in order once, else the reason."""
        first, *others = wishes
        for wish in wishes:
            if isinstance(wish, str):
                return wish
        if any(not torch.equal(wish.tokens, first.tokens) for wish in others):
            return "layers differ in the order that they need"
        if self.bound:
            return f"{', '.join(self.bound)} may depend on raster order"
        axes = self.family.token_axes
        if axes is None:
            return f"{type(module).__name__} makes the tokens itself"
        if any(call[name].shape[axis] != len(first.tokens) for name, axis in axes.items()):
            return "the call has more than the tokens of one grid"
        known = {*axes, *self.family.order_free}
        if unknown := [name for name in _given(call) if name not in known]:
            return f"{', '.join(unknown)} may have an entry for each token"
        if torch.is_grad_enabled():
            return "gradients are recorded, and blocks may run again on the way back"
        return self._stranger(module)

    def _stranger(self, module: nn.Module) -> str | None:
        """Return which module, hook or processor inside may look at single tokens, or `None`."""
        if not _is_own(module, _lowest(module)) or not _stock(type(module)):
            return f"forward of {type(module).__name__} was replaced"
        for name, part in module.named_modules():
            registry = vars(part).get("_diffusers_hook")
            hooks = set(registry.hooks) - WEIGHTS_ONLY - {self.own} if registry is not None else set()
            if part is not module and (part._forward_hooks or part._forward_pre_hooks):
                hooks.add("torch")
            if hooks:
                return f"{name or type(module).__name__} has hooks ({', '.join(sorted(hooks))})"
            processor = vars(part).get("processor") or part._modules.get("processor")
            ours = processor is None or isinstance(processor, FamilyProcessor)
            if not ours and type(processor).__name__ not in self.family.stock:
                return f"{name} runs {type(processor).__name__}"
        return None


def replaced_forward(model: nn.Module, parts: Mapping[str, nn.Module]) -> str | None:
    """Return the name of the first module whose `forward` was replaced, or `None`.

    A hook of diffusers or accelerate, or a compiled `forward`, does not count. `parts` are the modules inside
    `model` by path.
    """
    if not _is_own(model, _uncompiled(_lowest(model))):
        return type(model).__name__
    for path, part in parts.items():
        forward = vars(part).get("forward")
        hooked = "_diffusers_hook" in vars(part) or hasattr(part, "_hf_hook")
        if forward is not None and not hooked and not _is_own(part, _uncompiled(forward)):
            return f"{type(model).__name__}.{path}"
    return None


def diffusers_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Return the modules inside a denoiser whose classes are from diffusers, by path."""
    return {
        path: part
        for path, part in model.named_modules()
        if path and type(part).__module__.partition(".")[0] == "diffusers"
    }


def _lowest(model: nn.Module) -> Callable[..., Any]:
    """Return the function that runs below all hooks of diffusers and accelerate."""
    registry = vars(model).get("_diffusers_hook")
    if registry is not None and registry._fn_refs:
        lowest = registry._fn_refs[0]
        return lowest.original_forward or lowest.forward
    return getattr(model, "_old_forward", model.forward)


def _is_own(model: nn.Module, forward: Callable[..., Any]) -> bool:
    return getattr(forward, "__func__", None) is type(model).forward


def _uncompiled(forward: Callable[..., Any]) -> Callable[..., Any]:
    return getattr(forward, "_torchdynamo_orig_callable", forward)


def _stock(kind: type[nn.Module]) -> bool:
    """Return whether the `forward` of a class, wrappers included, is from the package of the class."""
    function, package = kind.forward, kind.__module__.partition(".")[0]
    while function is not None and function.__globals__["__name__"].partition(".")[0] == package:
        function = getattr(function, "__wrapped__", None)
    return function is None


def _put(x: Tensor, axis: int, order: Tensor) -> Tensor:
    return x.index_select(axis, order.to(x.device))


def _given(call: Mapping[str, Any]) -> list[str]:
    """Return the names of the arguments of a call that are not `None`.

    A dictionary is replaced by the names of its entries.
    """
    names = []
    for name, value in call.items():
        names += _given(value) if isinstance(value, Mapping) else [name] * (value is not None)
    return names
