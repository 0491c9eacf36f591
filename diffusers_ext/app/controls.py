"""Make sliders and boxes from the fields of methods and samplers, and read them back as settings."""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from ..settings.assign import convert, settable
from ..settings.fields import describe
from ..settings.methods import method_class

NUMBERS = (int, float)


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a method or sampler, and its control on a page."""

    owner: str
    name: str
    hint: Any
    control: gr.components.Component

    def read(self, value: Any) -> Any:
        """Return the setting that a control holds, or `None` for the preset's or the default.

        Raises `ValueError` for text of a wrong type.
        """
        if value is None or value == "":
            return None
        if isinstance(value, str):
            return convert(value, self.hint, f"{self.owner} {self.name}")
        return (
            int(value)
            if isinstance(value, float) and value.is_integer() and int in _kinds(self.hint)
            else value
        )


def of_method(name: str, known: Mapping[str, Any], leave_out: Collection[str] = ()) -> list[Field]:
    """Make the controls of a method, set to the values that are `known` for a model."""
    return of_class(name, method_class(name), known, leave_out)


def of_class(owner: str, cls: type, known: Mapping[str, Any], leave_out: Collection[str] = ()) -> list[Field]:
    """Make the controls of a class of settings, but for some fields. Call it inside a `gr.Blocks`."""
    hints = typing.get_type_hints(cls)
    return [
        Field(owner, name, hints[name], _control(name, facts, hints[name], known.get(name, facts.default)))
        for name, facts in settable(cls).items()
        if name not in leave_out
    ]


def shown(field: Field, value: Any) -> Any:
    """Return a setting as its control shows it."""
    if isinstance(field.control, gr.Textbox):
        return "" if value is None else json.dumps(value, default=dict)
    return value


def table(fields: Sequence[Field], values: Sequence[Any]) -> dict[str, Any]:
    """Return the settings that controls hold; those that are left empty are not in it."""
    found = {field.name: field.read(value) for field, value in zip(fields, values, strict=True)}
    return {name: value for name, value in found.items() if value is not None}


def _control(name: str, facts: Any, hint: Any, value: Any) -> gr.components.Component:
    about, kinds = facts.metadata, _kinds(hint)
    label = name.replace("_", " ")
    unit = f" ({about['unit']})" if about["unit"] else ""
    texts = {"label": f"{label}{unit}", "info": about["help"]}
    low, high = about.get("low"), about.get("high")
    choices = [choice for kind in kinds for choice in _choices(kind)]
    if choices and not set(kinds) & set(NUMBERS):
        return gr.Dropdown(choices, value=value, **texts)
    if kinds == [bool]:
        return gr.Checkbox(value=bool(value), **texts)
    number = [kind for kind in kinds if kind in NUMBERS]
    if number and isinstance(value, NUMBERS) and low is not None and high is not None:
        step = 1 if float not in kinds else (high - low) / 200
        return gr.Slider(low, high, value=value, step=step, **texts)
    if number and not isinstance(value, (list, tuple, dict, str)):
        return gr.Number(
            value=value, minimum=low, maximum=high, precision=0 if float not in kinds else None, **texts
        )
    text = "" if value is None else json.dumps(value, default=dict)
    return gr.Textbox(value=text, placeholder=describe(hint, "a "), lines=1, **texts)


def _kinds(hint: Any) -> list[Any]:
    """Return the types that a hint allows, without `None`."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return [kind for part in typing.get_args(hint) for kind in _kinds(part)]
    return [] if hint is type(None) else [hint]


def _choices(kind: Any) -> tuple[Any, ...]:
    return typing.get_args(kind) if typing.get_origin(kind) is typing.Literal else ()
