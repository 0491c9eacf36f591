"""Build samplers from text: `best-of-8`, `ttsnap` with `--set n=16`, and chains such as `best-of-4+reno`."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from .assign import settable
from .methods import PLAIN, method_class
from .registry import METHODS, SAMPLERS

OBJECTS = ("rewards", "prune_reward", "noise", "refine")  # fields that hold objects; text never sets them
UNSEEN = ("micro_batch", "keep_pictures")  # settings that move no pixel
_COUNTED = re.compile(r"(.+?)-(\d+)")


@dataclass(frozen=True, slots=True)
class Named:
    """A sampler as typed: `best-of-8` is `best-of-n` with a `count` of 8."""

    label: str
    kind: str
    count: int | None = None

    @property
    def cls(self) -> type:
        """The class of settings."""
        module, cls = SAMPLERS[self.kind].split(":")
        return getattr(import_module(module), cls)


def named(label: str) -> Named:
    """Read the name of a sampler, with or without a number; raises `ValueError` with the nearest name."""
    found = _found(label)
    if found is None:
        raise ValueError(_unknown(label, SAMPLERS))
    if found.count is not None and main_count(found.cls) is None:
        raise ValueError(f"{found.kind} has no number to set, got {label!r}; write {found.kind}")
    return found


def _found(label: str) -> Named | None:
    """Return the sampler that a label names: `best-of-8` is best-of-n, and `ttsnap-8` is ttsnap."""
    if label in SAMPLERS:
        return Named(label, label)
    counted = _COUNTED.fullmatch(label)
    kinds = (counted[1], f"{counted[1]}-n") if counted else ()
    return next((Named(label, kind, int(counted[2])) for kind in kinds if kind in SAMPLERS), None)


def parts(label: str) -> tuple[list[str], list[Named]]:
    """Read a column, such as `softpag+best-of-8`: the methods in it, and the samplers in their order.

    `plain` has neither. Raises `ValueError` for unknown names, and for what is named twice.
    """
    names = [name.strip() for name in label.split("+")]
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise ValueError(f"a column has each name once, got {label!r}; name {twice[0]} once")
    if PLAIN in names and len(names) > 1:
        raise ValueError(f"{PLAIN} means nothing else, got {label!r}; leave it out of this column")
    if unknown := [n for n in names if n not in METHODS and n != PLAIN and not _found(n)]:
        known = {PLAIN: "", **METHODS, **SAMPLERS}
        raise ValueError(_unknown(unknown[0], known, "method or sampler"))
    return [n for n in names if n in METHODS], [named(n) for n in names if n not in METHODS and n != PLAIN]


def classes_of(methods: Sequence[str], samplers: Sequence[Named]) -> tuple[dict[str, type], dict[str, str]]:
    """Return the classes that settings can go to, by the names typed, and the kind of each sampler."""
    found = {name: method_class(name) for name in methods} | {s.label: s.cls for s in samplers}
    return found, {s.label: s.kind for s in samplers}


def main_count(cls: type) -> str | None:
    """Return the setting that a number in a name sets, and that a larger budget pays for."""
    return getattr(cls, "grows", None)


def build(sampler: Named, values: Mapping[str, Any], rewards: Any = None) -> Any:
    """Build one sampler; raises `ValueError` if its number is also given as a setting."""
    values = dict(values)
    if sampler.count is not None:
        field = main_count(sampler.cls)
        if field in values:
            raise ValueError(
                f"{sampler.label} sets {field} to {sampler.count}, and {values[field]} came as a setting; "
                f"give one of them, or write {sampler.kind}"
            )
        values[field] = sampler.count
    return sampler.cls(rewards=rewards, **values)


def transforms(cls: type) -> bool:
    """Return whether a sampler is a transform of noise, which others can start from."""
    return any("__call__" in c.__dict__ for c in cls.__mro__)


def chained(samplers: Sequence[Any]) -> Any:
    """Join samplers into one: each next one refines the winner of those before it.

    A transform of noise comes first and gives its noise to the next. `None` for no sampler.
    """
    if not samplers:
        return None
    first, *rest = samplers
    if not rest:
        return first
    if transforms(type(first)):
        head, *tail = rest
        return chained([dataclasses.replace(head, noise=first), *tail])
    return dataclasses.replace(first, refine=chained(rest))


def as_dict(sampler: Any, rewards: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """Return name and settings of a sampler as plain JSON data; `rewards` says what they were.

    Settings that move no pixel are left out.
    """
    settings = {name: getattr(sampler, name) for name in settable(type(sampler)) if name not in UNSEEN}
    found = {"name": sampler.name, **json.loads(json.dumps(settings, default=_text))}
    if rewards:
        found["rewards"] = [dict(r) for r in rewards]
    for name in OBJECTS[1:]:
        if (inner := getattr(sampler, name, None)) is not None:
            found[name] = as_dict(inner) if dataclasses.is_dataclass(inner) else _text(inner)
    return found


def _unknown(name: str, known: Mapping[str, Any], what: str = "sampler") -> str:
    from ..core import nearest_names

    best = nearest_names(name, known, count=1)[0]
    return f"unknown {what} {name!r}; nearest is {best!r}, valid are {', '.join(known)}"


def _text(value: Any) -> str:
    """Name an object in a record, a network by the checksum of its weights."""
    name = str(getattr(value, "name", None) or getattr(value, "__name__", None) or type(value).__name__)
    if not hasattr(value, "state_dict"):
        return name
    total = hashlib.sha256()
    for key, tensor in sorted(value.state_dict().items()):
        total.update(key.encode() + tensor.detach().cpu().float().numpy().tobytes())
    return f"{name} {total.hexdigest()}"
