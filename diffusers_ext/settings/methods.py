"""Build methods from text: the command line, presets and job files all make the same frozen dataclasses."""

import dataclasses
import json
import typing
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from typing import Any

from .fields import describe, example, fit
from .registry import METHODS

PLAIN = "plain"


def method_class(name: str) -> type:
    """Find the settings class of a method; raises `ValueError` with the known names."""
    if name not in METHODS:
        raise ValueError(
            f"unknown method {name!r}; the methods are {', '.join(METHODS)} (see 'diffusers-ext methods')"
        )
    module, cls = METHODS[name].split(":")
    return getattr(import_module(module), cls)


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
    values: dict[str, dict[str, Any]] = {name: dict((preset or {}).get(name, {})) for name in classes}
    for text in assignments:
        key, sign, raw = text.partition("=")
        if not sign or not key.strip():
            raise ValueError(f"--set takes key=value, got {text!r}; for example --set scale=3")
        owner, _, field = key.strip().rpartition(".")
        if owner and owner not in classes:
            raise ValueError(
                f"--set {key.strip()} names a method that is not in use; "
                f"in use are {', '.join(classes) or 'none'}"
            )
        takers = [n for n in ([owner] if owner else classes) if field in _fields(classes[n])]
        if not takers:
            raise ValueError(_unknown_key(field, {n: classes[n] for n in ([owner] if owner else classes)}))
        for name in takers:
            values[name][field] = convert(raw, typing.get_type_hints(classes[name])[field], f"{name}.{field}")
    if preset is not None and required:
        for name in classes:
            if name not in preset and not values[name]:
                raise ValueError(
                    f"the preset of this model has settings for {', '.join(preset) or 'no method'}, got "
                    f"{name}; set them one by one, with --set on the command line"
                )
    return tuple(cls(**values[name]) for name, cls in classes.items())


def checked(name: str, values: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Fit the settings of a method in the file `source`; raises `ValueError` with its name otherwise."""
    cls = method_class(name)
    hints, fitted = typing.get_type_hints(cls), {}
    for key, value in values.items():
        if key not in _fields(cls):
            raise ValueError(f"{source}: {_unknown_key(key, {name: cls})}")
        fitted[key] = fit(value, hints[key], f"{source}: {name}.{key}")
    return fitted


def convert(raw: str, hint: Any, key: str) -> Any:
    """Convert JSON or plain text into the annotated type; raises `ValueError` if it does not fit."""
    try:
        value = json.loads(raw)
    except json.JSONDecodeError:
        value = raw.strip()
    for candidate in (value, raw.strip()):
        try:
            return fit(candidate, hint, key)
        except ValueError:
            continue
    sample = example(hint)
    text = sample if isinstance(sample, str) else json.dumps(sample, separators=(",", ": "))
    raise ValueError(
        f"{key} takes {describe(hint, 'a ')}, got {raw!r}; write it as JSON, for example {key}={text}"
    )


def as_dict(method: Any) -> dict[str, Any]:
    """Return name and settings of a method as plain JSON data."""
    return {"name": method.name, **json.loads(json.dumps(dataclasses.asdict(method), default=str))}


def _fields(cls: type) -> dict[str, dataclasses.Field]:
    return {f.name: f for f in dataclasses.fields(cls)}


def _unknown_key(key: str, classes: Mapping[str, type]) -> str:
    if not classes:
        return f"--set {key} needs a method to set it on; add --method NAME"
    from ..core import nearest_names

    names = [f for cls in classes.values() for f in _fields(cls)]
    best = nearest_names(key, names, count=1)[0]
    return (
        f"{' and '.join(classes)} has no setting {key!r}; nearest is {best!r}, valid are {', '.join(names)}"
    )
