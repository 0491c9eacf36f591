"""Give a pipeline the default arguments that its model was trained with."""

import inspect
from collections.abc import Mapping
from types import FunctionType
from typing import Any


def give(pipe: Any, call: Mapping[str, Any]) -> None:
    """Make `call` the default arguments of `pipe(...)`; what a caller passes wins.

    The class of `pipe` becomes a subclass of the stock one with the same name and the same code. So
    `isinstance`, `from_pipe` and `save_pretrained` work as before. Only the defaults in the signature of
    `__call__` differ. Other pipelines of the stock class keep their defaults.
    """
    known = inspect.signature(type(pipe).__call__).parameters
    pipe.__class__ = _subclass(type(pipe), {name: call[name] for name in call if name in known})


def of(pipe: Any) -> dict[str, Any]:
    """Return the default arguments that `give` has put on a pipeline, `{}` for a stock one."""
    return dict(getattr(type(pipe), "_own_call", {}))


def _subclass(stock: type, call: dict[str, Any]) -> type:
    names = {
        "__module__": stock.__module__,
        "__qualname__": stock.__qualname__,
        "__doc__": stock.__doc__,
        "__call__": _with_defaults(stock.__call__, call),
        "__copy__": _copy,
        "__reduce_ex__": _reduce,
        "_own_call": call,
    }
    return type(stock)(stock.__name__, (stock,), names)


def _with_defaults(function: Any, call: Mapping[str, Any]) -> Any:
    """Copy a function with other defaults, without gradients if the original is without."""
    import torch

    inner = inspect.unwrap(function)
    copy = FunctionType(
        inner.__code__, inner.__globals__, inner.__name__, inner.__defaults__, inner.__closure__
    )
    copy.__dict__.update({key: value for key, value in vars(inner).items() if key != "__wrapped__"})
    copy.__doc__, copy.__qualname__ = inner.__doc__, inner.__qualname__
    copy.__module__, copy.__annotations__ = inner.__module__, inner.__annotations__
    parameters = inspect.signature(inner).parameters.values()
    copy.__defaults__ = tuple(
        call.get(p.name, p.default)
        for p in parameters
        if p.kind is p.POSITIONAL_OR_KEYWORD and p.default is not p.empty
    )
    copy.__kwdefaults__ = {
        p.name: call.get(p.name, p.default)
        for p in parameters
        if p.kind is p.KEYWORD_ONLY and p.default is not p.empty
    }
    return torch.no_grad()(copy) if inner is not function else copy


def _copy(pipe: Any) -> Any:
    """Keep the class in a copy: a session passes copies of its pipeline, which it knows by their class."""
    other = type(pipe).__new__(type(pipe))
    vars(other).update(vars(pipe))
    return other


def _reduce(pipe: Any, protocol: int) -> tuple[Any, ...]:
    """Support `copy` and `pickle`, which look classes up by name."""
    (stock,) = type(pipe).__bases__
    return _empty, (stock, of(pipe)), vars(pipe)


def _empty(stock: type, call: dict[str, Any]) -> Any:
    kind = _subclass(stock, call)
    return kind.__new__(kind)
