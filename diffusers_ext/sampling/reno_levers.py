"""Lower the memory that gradients need, for the time of a block, and put everything back after it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ..errors import UnsupportedError

FLAG, FUNC = "gradient_checkpointing", "_gradient_checkpointing_func"
NONE = object()  # an attribute that a module does not have


@contextmanager
def frozen(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Take weights out of the graph, so that no layer keeps what only their gradients need."""
    weights = [p for module in modules for p in module.parameters() if p.requires_grad]
    try:
        for weight in weights:
            weight.requires_grad_(False)
        yield
    finally:
        for weight in weights:
            weight.requires_grad_(True)


@contextmanager
def checkpointed(model: Any, option: str) -> Iterator[None]:
    """Turn on the gradient checkpointing of a model of diffusers: its blocks run again in the backward pass.

    Raises `UnsupportedError` with the name of the option for a model that has none.
    """
    if not getattr(model, "_supports_gradient_checkpointing", False):
        raise UnsupportedError(
            f"{option} needs a model with gradient checkpointing, and {type(model).__name__} of diffusers "
            f"0.42 has none; leave {option} out."
        )
    before = [
        (m, m.gradient_checkpointing, vars(m).get(FUNC, NONE)) for m in model.modules() if hasattr(m, FLAG)
    ]
    try:
        model.enable_gradient_checkpointing()
        yield
    finally:
        for module, flag, func in before:
            module.gradient_checkpointing = flag
            if func is NONE:
                vars(module).pop(FUNC, None)
            else:
                setattr(module, FUNC, func)


def modules_of(reward: Any) -> list[nn.Module]:
    """Return the networks that a reward holds as attributes, those of rewards inside it included."""
    found: list[nn.Module] = []
    seen: set[int] = set()

    def look(thing: Any, depth: int) -> None:
        if id(thing) in seen or depth > 3:
            return
        seen.add(id(thing))
        if isinstance(thing, nn.Module):
            found.append(thing)
        elif isinstance(thing, dict):
            for value in thing.values():
                look(value, depth)
        elif isinstance(thing, (list, tuple)):
            for value in thing:
                look(value, depth)
        elif hasattr(thing, "__dict__") and not isinstance(thing, type):
            look(vars(thing), depth + 1)

    look(reward, 0)
    return found


@contextmanager
def checkpointed_layers(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Run each layer of transformers again in the backward pass.

    `gradient_checkpointing_enable()` of transformers 5 acts in training mode only, which also turns dropout
    on. So the layers are wrapped here.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [
        layer
        for module in modules
        for layer in module.modules()
        if isinstance(layer, GradientCheckpointingLayer) and "forward" not in vars(layer)
    ]
    try:
        for layer in layers:
            layer.forward = partial(_again, layer.forward)
        yield
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)


def _again(forward: Any, *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, **kwargs)


@contextmanager
def on_device(modules: Iterable[nn.Module], device: torch.device | str) -> Iterator[None]:
    """Hold networks on a device, and move each back to where it was."""
    homes = [(module, _device(module)) for module in modules]
    try:
        for module, home in homes:
            if home is not None:
                module.to(device)
        yield
    finally:
        for module, home in homes:
            if home is not None:
                module.to(home)


def _device(module: nn.Module) -> torch.device | None:
    return next((tensor.device for tensor in (*module.parameters(), *module.buffers())), None)
