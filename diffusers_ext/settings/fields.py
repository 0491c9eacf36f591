"""Fit values to annotated types; settings in Python, in files and in text follow one rule."""

import dataclasses
import functools
import math
import os
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

from ..errors import MethodError


def setting(
    default: Any,
    unit: str,
    help: str,
    bounds: tuple[float | None, float | None] = (None, None),
    file: bool = False,
    **more: Any,
) -> Any:
    """Make a field of a method; `bounds` are the least and the largest value, `file` marks a path.

    `more` goes to `dataclasses.field`.
    """
    low, high = bounds
    facts = {"unit": unit, "low": low, "high": high, "help": help, "file": file}
    return dataclasses.field(default=default, metadata=facts, **more)


def fit_fields(settings: Any) -> None:
    """Fit the fields of a frozen dataclass to their annotated types.

    Raises `MethodError` with the help text of the first that does not fit.
    """
    hints = _hints(type(settings))
    for f in dataclasses.fields(settings):
        hint, given = hints[f.name], getattr(settings, f.name)
        fits, value = _fit(given, hint)
        if not fits:
            words = describe(hint, "a ")
            if words.count(" of ") > 1:  # types in types are hard to read
                words = f.metadata.get("unit") or words
            about = f": {f.metadata['help']}" if "help" in f.metadata else ""
            raise MethodError(
                f"{type(settings).__name__} {f.name} takes {words}, got {given!r}{about}; for example "
                f"{f.name}={example(hint)!r}."
            )
        object.__setattr__(settings, f.name, value)


_hints = functools.cache(typing.get_type_hints)  # evaluates text, which takes longer than to fit a value


def check_bounds(settings: Any) -> None:
    """Raise `MethodError` for the first field of a dataclass that is outside the bounds of its `setting`."""
    for f in dataclasses.fields(settings):
        value, low, high = getattr(settings, f.name), f.metadata.get("low"), f.metadata.get("high")
        numbers = value if isinstance(value, (tuple, list)) else (value,)
        for number in numbers:
            if not isinstance(number, Real) or isinstance(number, bool):
                continue
            if (low is not None and number < low) or (high is not None and number > high):
                rule = f"{low} or more" if high is None else f"from {low} to {high}"
                raise MethodError(
                    f"{type(settings).__name__} {f.name} must be {rule}, got {number}: "
                    f"{f.metadata['unit']} {f.metadata['help']}; for example {f.name}={f.default!r}."
                )


def fit(value: Any, hint: Any, key: str) -> Any:
    """Fit a value to the annotated type; arrays and sequences other than tuples become lists.

    Raises `ValueError`, naming `key`, if it does not fit.
    """
    fits, fitted = _fit(value, hint)
    if not fits:
        raise ValueError(f"{key} takes {describe(hint, 'a ')}, got {value!r}")
    return fitted


def describe(hint: Any, article: str = "") -> str:
    """Describe a type in words, for tables, or for sentences with the article "a "."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(describe(a, article) for a in args))
    if origin is typing.Literal:
        return " | ".join(map(str, args))
    if _is_mapping(origin):
        return f"an object of {describe(args[0])} to {describe(args[1], article)}" if args else "an object"
    if _is_sequence(origin):
        inner = describe(args[0]) if args else ""
        plural = f"({inner})" if " or " in inner or inner.startswith("a list") else f"{inner}s"
        return f"a list of {plural}" if args else "a list"
    if hint in (int, float):
        return article + ("whole number" if hint is int else "number")
    return {bool: "true or false", str: "text", type(None): "null", Callable: "function"}.get(
        hint, getattr(hint, "__name__", str(hint))
    )


_EXAMPLES = (
    ("an object", {"NAME": None}),
    ("a list", [3, 3]),
    ("number", 1),
    ("whole number", 1),
    ("true", True),
    ("text", "NAME"),
)


def example(hint: Any) -> Any:
    """Return a value of the first type that a hint allows, for messages."""
    words = describe(hint)
    return next((value for word, value in _EXAMPLES if words.startswith(word)), words.split(" | ")[0])


def _fit(value: Any, hint: Any) -> tuple[bool, Any]:
    if hint is Any:
        return True, value
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hasattr(value, "tolist"):  # arrays, tensors and their scalars, without importing their libraries
        value = value.tolist()
    if origin in (typing.Union, types.UnionType):
        return next((fit for a in args if (fit := _fit(value, a))[0]), (False, None))
    if origin is typing.Literal:
        return value in args, value
    if _is_mapping(origin):
        return _fit_mapping(value, args)
    if _is_sequence(origin):
        if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
            return False, None
        fits = [_fit(v, args[0]) for v in value]
        kind = tuple if isinstance(value, tuple) else list  # a tuple can be hashed, and settings with it
        return all(ok for ok, _ in fits), kind(v for _, v in fits)
    if hint is float:
        number = isinstance(value, Real) and not isinstance(value, bool)
        return number and math.isfinite(value), float(value) if number else None
    if hint is int:
        number = isinstance(value, Integral) and not isinstance(value, bool)
        return number, int(value) if number else None
    if hint is str and isinstance(value, os.PathLike):
        value = os.fspath(value)
    return (value is None, None) if hint is type(None) else (isinstance(value, hint), value)


def _fit_mapping(value: Any, args: tuple[Any, ...]) -> tuple[bool, Any]:
    if not isinstance(value, Mapping):
        return False, None
    # JSON has text keys only, so a head number may come as text
    keys = [int(k) if args[0] is int and isinstance(k, str) and k.isdecimal() else k for k in value]
    pairs = [(_fit(k, args[0]), _fit(v, args[1])) for k, v in zip(keys, value.values(), strict=True)]
    return all(k[0] and v[0] for k, v in pairs), {k[1]: v[1] for k, v in pairs}


def _is_mapping(origin: Any) -> bool:
    return isinstance(origin, type) and issubclass(origin, Mapping)


def _is_sequence(origin: Any) -> bool:
    return isinstance(origin, type) and issubclass(origin, Sequence)
