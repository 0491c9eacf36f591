"""Make sliders and boxes from the fields of methods and samplers, and read them back as settings."""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, dataclass
from typing import Any

import gradio as gr

from ..settings.assign import convert, settable, written
from ..settings.fields import describe
from ..settings.methods import method_class

NUMBERS = (int, float)
STEPS = 250  # of a slider, at most; then they get a round length


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a method or sampler, and its control on a page.

    `default` is that of the class. `file` says that text in the field is a path, which no visitor may give.
    """

    owner: str
    name: str
    hint: Any
    default: Any
    file: bool
    control: gr.components.Component

    def usual(self, known: Mapping[str, Any]) -> Any:
        """Return the value that holds where nobody sets one: what is known for a model, or the default."""
        return known.get(self.name, self.default)

    def read(self, value: Any) -> Any:
        """Return the setting that a control holds, `None` for an empty one.

        Raises `ValueError` for text of a wrong type.
        """
        if isinstance(value, str) and _kinds(self.hint) != [str]:
            value = convert(value, self.hint, f"{self.owner} {self.name}") if value.strip() else None
        elif isinstance(value, float) and value.is_integer() and _kinds(self.hint) == [int]:
            return int(value)
        return value


def of_method(
    name: str, known: Mapping[str, Any], leave_out: Collection[str] = (), tab: str = ""
) -> list[Field]:
    """Make the controls of a method, set to the values that are `known` for a model."""
    return of_class(name, method_class(name), known, leave_out, tab)


def of_class(
    owner: str, cls: type, known: Mapping[str, Any], leave_out: Collection[str] = (), tab: str = ""
) -> list[Field]:
    """Make the controls of a class of settings, but for some fields. Call it inside a `gr.Blocks`.

    Fields that hold a path and nothing else have none. With the name of a `tab`, controls have an id in the
    page, such as `compare-softpag-scale`.
    """
    hints = typing.get_type_hints(cls)
    return [
        Field(
            owner,
            name,
            hints[name],
            None if facts.default is MISSING else facts.default,
            facts.metadata["file"],
            _control(
                name, facts, hints[name], known.get(name, facts.default), tab and f"{tab}-{owner}-{name}"
            ),
        )
        for name, facts in settable(cls).items()
        if name not in leave_out and not (facts.metadata["file"] and _kinds(hints[name]) == [str])
    ]


def shown(field: Field, value: Any) -> Any:
    """Return a setting as its control shows it."""
    return _text(value, field.hint, field.file) if isinstance(field.control, gr.Textbox) else value


def table(
    fields: Sequence[Field], values: Sequence[Any], known: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the settings that controls hold and that are not the usual ones, by name.

    `known` are the settings that the model brings. An empty control leaves a setting out where that is
    allowed, and else has the usual value. Raises `ValueError` as `Field.read` does.
    """
    found = {}
    for field, value in zip(fields, values, strict=True):
        usual, value = field.usual(known or {}), field.read(value)
        empty = value is None and (type(None) not in _all_kinds(field.hint) or _path(field.file, usual))
        if not empty and _plain(value) != _plain(usual):
            found[field.name] = value
    return found


def _control(name: str, facts: Any, hint: Any, value: Any, place: str) -> gr.components.Component:
    about, kinds = facts.metadata, _kinds(hint)
    unit = f" ({about['unit']})" if about["unit"] else ""
    more = {
        "label": f"{name.replace('_', ' ')}{unit}",
        "info": about["help"],
        "elem_id": place.replace("_", "-") or None,
    }
    low, high = about.get("low"), about.get("high")
    choices = [choice for kind in kinds for choice in typing.get_args(kind) if _is_literal(kind)]
    numbers = [kind for kind in kinds if kind in NUMBERS]
    if choices and not numbers:
        return gr.Dropdown(choices, value=value, **more)
    if kinds == [bool]:
        return gr.Checkbox(value=bool(value), **more)
    # A number in text may be empty, and 1.0 is a share there where 1 is a count.
    if len(numbers) == len(kinds) == 1 and type(None) not in _all_kinds(hint):
        if low is not None and high is not None:
            step = 1 if numbers == [int] else nice_step(low, high)
            return gr.Slider(low, high, value=value, step=step, **more)
        return gr.Number(value=value, minimum=low, maximum=high, **more)
    return gr.Textbox(
        value=_text(value, hint, about["file"]), placeholder=describe(hint, "a "), lines=1, **more
    )


def nice_step(low: float, high: float) -> float:
    """Return the least of 1, 2 or 5 times a power of ten that cuts a span into `STEPS` parts or fewer."""
    return next(
        n * 10.0**power
        for power in range(-6, 7)
        for n in (1, 2, 5)
        if (high - low) / n <= STEPS * 10.0**power
    )


def _text(value: Any, hint: Any, file: bool) -> str:
    """Write a value so that `Field.read` gives it back; the path of a file is not shown."""
    if value is None or value is MISSING or _path(file, value):
        return ""
    return value if _kinds(hint) == [str] else written(value, hint)


def _path(file: bool, value: Any) -> bool:
    return file and isinstance(value, str)


def _plain(value: Any) -> Any:
    """Return a value as JSON has it, so that tuples equal lists."""
    return json.loads(json.dumps(value, default=lambda v: dict(v) if isinstance(v, Mapping) else str(v)))


def _kinds(hint: Any) -> list[Any]:
    """Return the types that a hint allows, without `None`."""
    return [kind for kind in _all_kinds(hint) if kind is not type(None)]


def _all_kinds(hint: Any) -> list[Any]:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return [kind for part in typing.get_args(hint) for kind in _all_kinds(part)]
    return [hint]


def _is_literal(kind: Any) -> bool:
    return typing.get_origin(kind) is typing.Literal
