"""Write out the grid of a job: every combination of the values of its axes, in a fixed order."""

from __future__ import annotations

import itertools
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..settings import methods, samplers
from ..settings.assign import settable
from ..settings.fields import fit
from ..settings.registry import METHODS
from . import tables
from .sampler import Sampler

MODEL, METHOD, CALL, SAMPLER = "model", "method", "call", "sampler"


@dataclass(frozen=True)
class Axis:
    """An axis of the grid: what it changes, `owner` and `field`, and its values.

    The owner is `model`, `method`, `call`, `sampler`, or the name of a method.
    """

    owner: str
    field: str
    values: tuple[Any, ...]

    @property
    def name(self) -> str:
        """The axis as it is written in a job file."""
        return f"{self.owner}.{self.field}" if self.field else self.owner


def axes(data: Any, known: Mapping[str, Any], sampler: Sampler | None, where: str) -> tuple[Axis, ...]:
    """Read the axes of a grid; `known` are the methods of the job.

    Axes of the model come first, since loading one takes longest. The others keep the order of the file.
    Raises `ValueError` for axes of nothing that the job has, and for values that do not fit.
    """
    if not isinstance(data, Mapping):
        raise ValueError(f"{where} must be a table of keys, got {data!r}; write [grid] above them")
    pairs = []
    for key, value in data.items():
        deeper = isinstance(value, Mapping)
        inner = value.items() if deeper else [(key.partition(".")[2], value)]
        pairs += [(key if deeper else key.partition(".")[0], field, values) for field, values in inner]
    found = [_axis(owner, field, values, known, sampler, where) for owner, field, values in pairs]
    names = [axis.name for axis in found]
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise ValueError(f"{where} has each axis once, got {twice[0]} twice; join their values")
    return tuple(sorted(found, key=lambda axis: axis.owner != MODEL))


def points(found: Sequence[Axis]) -> Iterator[dict[str, Any]]:
    """Return the value of each axis by its name, for every combination; the last axis changes first."""
    names = [axis.name for axis in found]
    for values in itertools.product(*(axis.values for axis in found)):
        yield dict(zip(names, values, strict=True))


def _axis(
    owner: str, field: str, values: Any, known: Mapping[str, Any], sampler: Sampler | None, where: str
) -> Axis:
    name = f"{owner}.{field}" if field else owner
    if not isinstance(values, list) or not values:
        raise ValueError(f"{where} {name} takes a list of values, got {values!r}; write {name} = [1, 2]")
    if owner in (MODEL, METHOD) and not field:
        texts = [fit(v, str, f"{where} {name}") for v in values]
        for text in texts if owner == METHOD else ():
            if samplers.parts(text)[1]:
                raise ValueError(
                    f"{where} method takes names of methods, got {text!r}; write softpag or plain"
                )
        return Axis(owner, "", _different(texts, f"{where} {name}"))
    if owner == CALL and field:
        return Axis(owner, field, _different(values, f"{where} {name}"))
    if owner == SAMPLER and sampler is not None:
        classes = {part.label: part.cls for part in sampler.parts}
    elif owner in known:
        classes = {owner: methods.method_class(owner)}
    elif owner in METHODS:
        raise ValueError(f"{where} {name} needs the method in the job; add [[method]] with name = {owner!r}")
    else:
        valid = [MODEL, METHOD, "call.KEY", "seeds", *(f"{n}.KEY" for n in known)]
        valid += ["sampler.KEY"] * (sampler is not None)
        raise ValueError(tables.unknown(name, valid, where, "axis"))
    fields = [f for cls in classes.values() for f in settable(cls)]
    if field not in fields:
        raise ValueError(tables.unknown(name, [f"{owner}.{f}" for f in dict.fromkeys(fields)], where, "axis"))
    cls = next(cls for cls in classes.values() if field in settable(cls))
    hint = typing.get_type_hints(cls)[field]
    return Axis(
        owner, field, _different([fit(v, hint, f"{where} {name}") for v in values], f"{where} {name}")
    )


def _different(values: Sequence[Any], where: str) -> tuple[Any, ...]:
    if any(value in values[:place] for place, value in enumerate(values)):
        raise ValueError(f"{where} has each value once, got {list(values)!r}; remove what comes twice")
    return tuple(values)
