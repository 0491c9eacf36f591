"""Build methods from text: the command line, presets and job files all make the same frozen dataclasses."""

import dataclasses
import json
import typing
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from typing import Any

from .assign import assigned, settable, unknown_key
from .fields import fit
from .registry import METHODS, SAMPLERS

PLAIN = "plain"


def method_class(name: str) -> type:
    """Find the settings class of a method; raises `ValueError` with the known names."""
    if name not in METHODS:
        raise ValueError(_unknown(name))
    module, cls = METHODS[name].split(":")
    return getattr(import_module(module), cls)


def _unknown(name: str) -> str:
    from ..core import nearest_names

    known = f"the methods are {', '.join(METHODS)}"
    if all(part.strip() in METHODS for part in name.split(",")):
        return f"a method is named alone, got {name!r}; name each by itself, as --method does"
    if name in SAMPLERS:
        return f"{name!r} is a sampler and no method; {known}"
    return f"unknown method {name!r}; nearest is {nearest_names(name, METHODS, 1)[0]!r}, {known}"


def once(names: Sequence[str]) -> None:
    """Raise `ValueError` for a method that is named twice: it has one set of settings."""
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise ValueError(f"a method is applied once, got {', '.join(names)}; name {twice[0]} once")


def build(
    names: Sequence[str],
    assignments: Iterable[str] = (),
    preset: Mapping[str, Mapping[str, Any]] | None = None,
    required: bool = True,
) -> tuple[Any, ...]:
    """Build methods by name, each once, with `key=value` or `method.key=value` settings, in the given order.

    `preset` holds, by method, the settings that were not assigned. A key without a method goes to every
    method that has it. Raises `ValueError` for methods that are unknown or named twice, for unknown keys and
    for values of a wrong type. If the preset is `required`, it also raises for a method that has no setting
    in the preset or the assignments. So does a preset without methods.
    """
    once(names)
    classes = {name: method_class(name) for name in names}
    if preset is not None and required and not classes:
        raise ValueError("--preset has settings for methods, and none is in use; add --method NAME")
    given = assigned(assignments, classes)
    values = {name: {**(preset or {}).get(name, {}), **given[name]} for name in classes}
    if preset is not None and required:
        for name in classes:
            if name not in preset and not values[name]:
                raise ValueError(
                    f"the preset of this model has settings for {', '.join(preset) or 'no method'}, got "
                    f"{name}; set them one by one, as {classes[name].__name__}(...) in Python or with --set "
                    "on the command line"
                )
    return tuple(cls(**values[name]) for name, cls in classes.items())


def checked(name: str, values: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Fit the settings of a method in the file `source`; raises `ValueError` with its name otherwise."""
    cls = method_class(name)
    hints, fitted = typing.get_type_hints(cls), {}
    for key, value in values.items():
        if key not in settable(cls):
            raise ValueError(f"{source}: {unknown_key(key, {name: cls})}")
        fitted[key] = fit(value, hints[key], f"{source}: {name}.{key}")
    return fitted


def as_dict(method: Any) -> dict[str, Any]:
    """Return name and settings of a method as plain JSON data."""
    values = {f.name: getattr(method, f.name) for f in dataclasses.fields(method)}
    return {"name": method.name, **json.loads(json.dumps(values, default=_plain))}


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else str(value)
