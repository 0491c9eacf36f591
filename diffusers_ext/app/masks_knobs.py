"""Make the controls of a sparse method: three sliders for the axes of a window, one for other fields."""

from __future__ import annotations

import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr

from ..kernels.geometry import Grid
from ..settings.assign import settable
from ..settings.methods import method_class
from . import controls

AXES = ("frames", "rows", "columns")
NOT_SHOWN = ("dense_steps", "dense_layers", "backend", "train_tokens")  # settings that change no mask


@dataclass(frozen=True, slots=True)
class Knob:
    """A setting of a method with its controls: that of `field`, or three for the axes of a grid."""

    owner: str
    name: str
    controls: tuple[gr.components.Component, ...]
    field: controls.Field | None = None

    def read(self, values: Sequence[Any]) -> Any:
        """Return the setting that the controls hold, `None` for the default.

        Raises `ValueError` for text of a wrong type.
        """
        if self.field is not None:
            return self.field.read(values[0])
        return [int(v) if isinstance(v, float) and v.is_integer() else v for v in values]

    def limits(self, values: Sequence[Any], grid: Grid) -> list[Any]:
        """Return what fits sliders to another grid; their values go down to its edges."""
        if self.field is None:
            return [
                gr.update(value=min(at or 1, n), maximum=max(n, 2), visible=n > 1)
                for at, n in zip(values, grid, strict=True)
            ]
        return [gr.update(maximum=most) if (most := self._most(values[0], grid)) else gr.skip()]

    def updates(self, known: Mapping[str, Any], grid: Grid) -> list[Any]:
        """Return what sets the controls to a known value, or to the default; sliders end at the grid."""
        value = _in_tokens(self.owner, known, grid).get(self.name, self._facts.default)
        if self.field is None:
            return self.limits(_axes(value), grid)
        most = self._most(value, grid)
        return [gr.update(value=controls.shown(self.field, value), **({"maximum": most} if most else {}))]

    def _most(self, value: Any, grid: Grid) -> int | None:
        """Return where a slider over tokens ends: at the grid, or at its value if that is larger."""
        about = self._facts.metadata
        slides = isinstance(self.controls[0], gr.Slider) and about["unit"] == "tokens"
        return min(about["high"], max(*grid, int(value or 0))) if slides else None

    @property
    def _facts(self) -> Any:
        return settable(method_class(self.owner))[self.name]


def of_method(name: str, known: Mapping[str, Any], grid: Grid) -> list[Knob]:
    """Make the controls of a method. Call it inside a `gr.Blocks`."""
    hints = typing.get_type_hints(method_class(name))
    known, found = _in_tokens(name, known, grid), []
    for key, facts in settable(method_class(name)).items():
        if key in NOT_SHOWN or facts.metadata["file"]:
            continue
        if hints[key] not in (Sequence[int], Sequence[int | float]):
            others = [other for other in hints if other != key]
            (field,) = controls.of_method(name, known, leave_out=others)
            found.append(Knob(name, key, (field.control,), field))
            continue
        label = key.replace("_", " ")
        help = escape(facts.metadata["help"])
        gr.HTML(f"<b>{escape(label)}</b> <small>{help}</small>", elem_classes="axes")
        with gr.Row():
            sliders = tuple(
                gr.Slider(
                    1,
                    max(n, 2),
                    value=at,
                    step=1,
                    label=axis,
                    visible=n > 1,
                    min_width=90,
                    buttons=[],
                    elem_classes="axis",
                    elem_id=f"masks-{name}-{key}-{axis}",
                )
                for axis, n, at in zip(AXES, grid, _axes(known.get(key, facts.default)), strict=True)
            )
        found.append(Knob(name, key, sliders))
    return found


def table(knobs: Sequence[Knob], values: Sequence[Any]) -> dict[str, Any]:
    """Return the settings of a method that the controls of all its knobs hold."""
    left, found = list(values), {}
    for knob in knobs:
        own, left = left[: len(knob.controls)], left[len(knob.controls) :]
        if (value := knob.read(own)) is not None:
            found[knob.name] = value
    return found


def _in_tokens(name: str, known: Mapping[str, Any], grid: Grid) -> Mapping[str, Any]:
    """Return known settings with a window and a stride in tokens of a grid, where they are shares of it."""
    cls = method_class(name)
    if not (hasattr(cls, "sizes") and known.get("window")):
        return known
    window, stride = cls(**known).sizes(grid)
    return {**known, "window": window, "stride": stride}


def _axes(value: Sequence[int]) -> Sequence[int]:
    """Return numbers for frames, rows and columns; two of them are for rows and columns."""
    return [*(1,) * (3 - len(value)), *value]
