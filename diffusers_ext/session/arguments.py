"""Read the arguments of a call of a denoiser by name, and put them back into the form of the call."""

import inspect
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from torch import nn


def by_name(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call of a denoiser, by name."""
    bound = _signature(type(module).forward).bind(module, *args, **kwargs)
    call = dict(bound.arguments)
    call.pop("self")
    return call | call.pop("kwargs", {})


def as_given(
    call: Mapping[str, Any], module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments `call` in the form of `args` and `kwargs`: wrappers below may read positions."""
    names = list(_signature(type(module).forward).parameters)[1 : len(args) + 1]
    return tuple(call[name] for name in names), {name: call[name] for name in kwargs}


@cache
def _signature(forward: Callable[..., Any]) -> inspect.Signature:
    return inspect.signature(forward)
