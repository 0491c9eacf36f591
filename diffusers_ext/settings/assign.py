"""Read `key=value` texts as settings of frozen dataclasses, by the types and names of their fields."""

import dataclasses
import json
import re
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from .fields import describe, example, fit

_SHORT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)", re.ASCII)


def settable(cls: type) -> dict[str, dataclasses.Field]:
    """Return the fields that text can set: those with a description."""
    return {f.name: f for f in dataclasses.fields(cls) if "help" in f.metadata}


def takers(
    assignments: Iterable[str], classes: Mapping[str, type], kinds: Mapping[str, str] | None = None
) -> list[tuple[str, str, str]]:
    """Return class, field and text for each `key=value` or `name.key=value`, in the given order.

    A key without a name goes to every class that has it. `kinds` gives second names, which several classes
    may share. Raises `ValueError` for keys that no class has.
    """
    kinds, found = kinds or {}, []
    for text in assignments:
        key, sign, raw = text.partition("=")
        if not sign or not key.strip():
            raise ValueError(f"--set takes key=value, got {text!r}; for example --set scale=3")
        owner, _, field = key.strip().rpartition(".")
        meant = {n: c for n, c in classes.items() if owner in ("", n, kinds.get(n))}
        if not meant and owner:
            raise ValueError(
                f"--set {key.strip()} names a method that is not in use; "
                f"in use are {', '.join(classes) or 'none'}"
            )
        having = [n for n, c in meant.items() if field in settable(c)]
        if not having:
            raise ValueError(unknown_key(field, meant))
        found += [(name, field, raw) for name in having]
    return found


def assigned(assignments: Iterable[str], classes: Mapping[str, type]) -> dict[str, dict[str, Any]]:
    """Return the values that `key=value` texts give to each of `classes`, as `takers` finds them.

    Raises `ValueError` as `takers` does, and for values of a wrong type.
    """
    values: dict[str, dict[str, Any]] = {name: {} for name in classes}
    for name, field, raw in takers(assignments, classes):
        values[name][field] = convert(raw, typing.get_type_hints(classes[name])[field], f"{name}.{field}")
    return values


def convert(raw: str, hint: Any, key: str) -> Any:
    """Convert JSON or plain text into the annotated type; raises `ValueError` if it does not fit."""
    try:
        value = json.loads(raw)
    except json.JSONDecodeError:
        value = raw.strip()
        if _SHORT.fullmatch(value):  # .5 and 5. and +5, which JSON does not know
            value = float(value) if "." in value else int(value)
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


def written(value: Any, hint: Any) -> str:
    """Return the text that `convert` reads as a value."""
    if isinstance(value, str):
        try:
            if convert(value, hint, "") == value:
                return value
        except ValueError:
            pass
    return json.dumps(value, default=dict, ensure_ascii=False)


def unknown_key(key: str, classes: Mapping[str, type]) -> str:
    """Write the sentence for a setting that none of the classes has."""
    if not classes:
        return f"--set {key} needs a method to set it on; add --method NAME"
    from ..core import nearest_names

    names = list(dict.fromkeys(f for cls in classes.values() for f in settable(cls)))
    best = nearest_names(key, names, count=1)[0]
    return (
        f"{' and '.join(classes)} has no setting {key!r}; nearest is {best!r}, valid are {', '.join(names)}"
    )
