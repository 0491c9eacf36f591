"""Bring settings to plain JSON data, and check the keys of what is read."""

from __future__ import annotations

import dataclasses
import math
import os
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..core import nearest_names
from ..errors import MethodError
from ..settings.assign import settable
from ..settings.fields import fit


def plain(value: Any, what: str) -> Any:
    """Return a value as plain JSON data; raises `MethodError`, naming `what` it is, for any other object."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(each, what) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each, what) for each in value]
    kind = value if isinstance(value, float) else f"a {type(value).__name__}"
    raise MethodError(
        f"a recipe holds text, numbers and lists, and {what} is {kind}; save it to a file and give its path, "
        "or leave it out."
    )


def settings_of(owner: Any, instead: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the settings of a method or sampler as plain data; local files have absolute paths.

    `instead` holds values in place of its own.
    """
    values = {name: getattr(owner, name) for name in settable(type(owner))} | dict(instead or {})
    found = {name: plain(value, f"{owner.name}.{name}") for name, value in values.items()}
    for name in _files(type(owner)):
        if isinstance(text := found[name], str) and (path := Path(text).expanduser()).exists():
            found[name] = str(path.resolve())
    return found


def fitted(cls: type, values: Mapping[str, Any], source: str, folder: Path | None) -> dict[str, Any]:
    """Fit values to the settings of a class; relative paths of files that exist in `folder` belong there.

    Raises `ValueError`, naming `source`, for unknown keys and for values of a wrong type.
    """
    only(values, settable(cls), source, cls.name)
    hints = typing.get_type_hints(cls)
    found = {key: fit(value, hints[key], f"{source}: {cls.name}.{key}") for key, value in values.items()}
    for name in _files(cls):
        text = found.get(name)
        if folder is not None and isinstance(text, str) and (folder / text).exists():
            found[name] = str(folder / text)
    return found


def only(data: Mapping[str, Any], known: Iterable[str], source: str, what: str) -> None:
    """Raise `MethodError` for the first key that is not known, with the nearest one."""
    known = list(known)
    for key in data:
        if key not in known:
            best = nearest_names(str(key), known, count=1)[0]
            raise MethodError(
                f"{source}: {what} has no {key!r}; nearest is {best!r}, valid are {', '.join(known)}."
            )


def _files(cls: type) -> list[str]:
    return [f.name for f in dataclasses.fields(cls) if f.metadata.get("file")]
