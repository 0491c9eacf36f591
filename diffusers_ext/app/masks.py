"""The section with sparse masks: which keys a token sees, by method and size, as sliders move."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr

from ..errors import MethodError
from ..explore.mask_pictures import HIDDEN, MASKED, QUERY, SEEN, Drawing, draw
from ..settings.methods import method_class
from . import masks_knobs, masks_view
from .engine import sentence
from .masks_knobs import Knob
from .masks_view import View, Viewer, Wanted
from .server import SILENT

LABEL = "Sparse masks"
FIRST = "wan2.1"
SIZES = {"height": "Height (px)", "width": "Width (px)", "num_frames": "Frames", "text": "Text tokens"}
AXES = ("frame", "row", "column")
LEGEND = (("token", QUERY), ("seen", SEEN), ("read by a kernel, then masked", MASKED), ("skipped", HIDDEN))
ABOUT = (
    "Click on a token to see which keys it attends to under a sparse method, at the size of a real model. "
    "Nothing is loaded or run."
)


@dataclass(frozen=True)
class Inputs:
    """The controls of the section, in the order in which handlers get their values."""

    viewer: Viewer
    model: gr.Dropdown
    method: gr.Radio
    device: gr.Dropdown
    size: Mapping[str, gr.Number]
    token: Sequence[gr.Slider]
    knobs: Mapping[str, Sequence[Knob]]
    groups: Sequence[gr.Group]

    @property
    def every_knob(self) -> list[Knob]:
        """The controls of all methods, one after the other."""
        return [knob for own in self.knobs.values() for knob in own]

    @property
    def all(self) -> list[gr.components.Component]:
        """All controls, as `wanted` reads their values."""
        own = [control for knob in self.every_knob for control in knob.controls]
        return [self.model, self.method, self.device, *self.size.values(), *self.token, *own]

    def wanted(self, model: str, method: str, device: str, *values: Any) -> Wanted:
        """Return what the controls ask for. Raises `ValueError` in one sentence for what cannot be meant."""
        viewer = self.viewer
        if not (model in viewer.models and method in self.knobs and device in masks_view.DEVICES):
            raise MethodError("choose a model, a method and a device of the lists.")
        count, axes = len(self.size), len(self.token)
        size = dict(zip(self.size, map(_whole, values[:count]), strict=True))
        if not viewer.tokens(model).frames:
            size["num_frames"] = None
        query = tuple(_whole(value) or 0 for value in values[count : count + axes])
        left = list(values[count + axes :])
        for name, knobs in self.knobs.items():
            width = sum(len(knob.controls) for knob in knobs)
            own, left = left[:width], left[width:]
            if name == method:
                table = viewer.settings(model, method) | masks_knobs.table(knobs, own)
        return Wanted(model, method_class(method)(**table), size, query, device)

    def with_token(self, values: Sequence[Any], token: Sequence[int]) -> list[Any]:
        """Return the values of all controls with another token."""
        first = 3 + len(self.size)
        return [*values[:first], *token, *values[first + len(self.token) :]]


def build(tab: gr.Tab) -> None:
    """Make the section, which draws when `tab` is opened. Call it inside that tab."""
    viewer = Viewer()
    gr.Markdown(ABOUT)
    with gr.Row():
        with gr.Column(scale=2, min_width=320):
            inputs = controls_of(viewer)
        with gr.Column(scale=3, min_width=320):
            top = gr.HTML(_legend(), elem_id="masks-legend")
            picture = gr.Image(
                label="Keys that the token sees",
                show_label=False,
                alt_text="Frames of tokens; those that the chosen token sees are bright",
                format="png",
                type="filepath",
                interactive=False,
                buttons=["download", "fullscreen"],
                elem_id="masks-picture",
            )
            table = gr.HTML(elem_id="masks-facts")
            line = gr.Textbox(
                label="The same forecast in a terminal",
                buttons=["copy"],
                interactive=False,
                max_lines=6,
                elem_id="masks-command",
                elem_classes="mono",
            )
    knobs = [control for knob in inputs.every_knob for control in knob.controls]
    outputs = [top, picture, table, line, *inputs.token]

    def show(*values: Any) -> list[Any]:
        try:
            view = viewer.view(inputs.wanted(*values))
        except (ValueError, OSError) as error:
            return [sorry(error), *[gr.skip()] * 6]
        places = (
            gr.update(value=at, maximum=max(n - 1, 1), visible=n > 1)
            for at, n in zip(view.seen.query, view.grid, strict=True)
        )
        return [_legend(), draw(view.seen), _table(view), viewer.command(view.wanted), *places]

    def click(event: gr.SelectData, *values: Any) -> list[Any]:
        try:
            asked = inputs.wanted(*values)
            grid = viewer.tokens(asked.model).grid(asked.size).shape
        except (ValueError, OSError) as error:
            return [sorry(error), *[gr.skip()] * 6]
        token = Drawing.of(grid).token_at(*map(int, event.index))
        return [gr.skip()] * 7 if token is None else show(*inputs.with_token(values, token))

    def reset(model: str) -> list[Any]:
        if model not in viewer.models:
            return [gr.skip()] * (len(inputs.all) - 1 + len(inputs.groups))
        grid, best = viewer.tokens(model).grid({}).shape, viewer.first_method(model)
        return [
            best,
            gr.skip(),
            *(gr.update(value=v, visible=v is not None) for v in viewer.usual(model).values()),
            *(gr.update(value=n // 2, maximum=max(n - 1, 1), visible=n > 1) for n in grid),
            *(
                update
                for knob in inputs.every_knob
                for update in knob.updates(viewer.settings(model, knob.owner), grid)
            ),
            *shown(best),
        ]

    def resize(*values: Any) -> list[Any]:
        try:
            asked = inputs.wanted(*values)
            grid = viewer.tokens(asked.model).grid(asked.size).shape
        except (ValueError, OSError):  # which `show` says
            return [gr.skip()] * len(knobs)
        left = list(values[len(inputs.all) - len(knobs) :])
        return [
            update
            for knob in inputs.every_knob
            for update in knob.limits([left.pop(0) for _ in knob.controls], grid)
        ]

    def shown(method: str) -> list[Any]:
        return [gr.update(visible=name == method) for name in inputs.knobs]

    sizes = [event for box in inputs.size.values() for event in (box.submit, box.blur)]
    moves = []
    for control in inputs.all[1:]:
        if control not in inputs.size.values():
            typed = isinstance(control, (gr.Number, gr.Textbox))
            moves += [control.submit, control.blur] if typed else [control.input]
    resized = gr.on(sizes, resize, inputs.all, knobs, trigger_mode="always_last", **SILENT)
    resized.then(show, inputs.all, outputs, **SILENT)
    gr.on(moves, show, inputs.all, outputs, trigger_mode="always_last", **SILENT)
    picture.select(click, inputs.all, outputs, trigger_mode="always_last", **SILENT)
    inputs.method.change(shown, inputs.method, inputs.groups, **SILENT)
    fresh = inputs.model.input(reset, inputs.model, [*inputs.all[1:], *inputs.groups], **SILENT)
    fresh.then(show, inputs.all, outputs, **SILENT)
    tab.select(show, inputs.all, outputs, **SILENT)


def controls_of(viewer: Viewer) -> Inputs:
    """Make the controls, set to what is usual for the first model."""
    grid, best = viewer.tokens(FIRST).grid({}).shape, viewer.first_method(FIRST)
    numbers = viewer.usual(FIRST)
    model = gr.Dropdown(
        viewer.models,
        value=FIRST,
        label="Size of",
        info="a model whose tokens are known",
        elem_id="masks-model",
    )
    with gr.Row():
        size = {
            name: gr.Number(numbers[name], label=label, precision=0, min_width=90, elem_id=f"masks-{name}")
            for name, label in SIZES.items()
        }
    method = gr.Radio(masks_view.sparse_methods(), value=best, label="Method", elem_id="masks-method")
    device = gr.Dropdown(
        list(masks_view.DEVICES),
        value=masks_view.DEVICES[0],
        label="Device",
        info="that the speed-up is expected on",
        elem_id="masks-device",
    )
    knobs, groups = {}, []
    for name in masks_view.sparse_methods():
        with gr.Group(visible=name == best) as group:
            knobs[name] = masks_knobs.of_method(name, viewer.settings(FIRST, name), grid)
        groups.append(group)
    with gr.Accordion("Token", open=True):
        gr.Markdown("A click on the picture chooses it too.")
        token = [
            gr.Slider(0, n - 1, value=n // 2, step=1, label=axis, buttons=[], elem_id=f"masks-{axis}")
            for axis, n in zip(AXES, grid, strict=True)
        ]
    return Inputs(viewer, model, method, device, size, token, knobs, groups)


def _whole(value: Any) -> int | None:
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value // 1:
        raise MethodError(f"a size is a whole number, got {str(value)[:40]!r}; round it.")
    return int(value)


def _table(view: View) -> str:
    rows = (
        f"<dt style='font-weight: 600'>{escape(name)}</dt><dd style='margin: 0'>{escape(text)}</dd>"
        for name, text in masks_view.facts(view)
    )
    look = "display: grid; grid-template-columns: minmax(5em, 11em) 1fr; gap: 0.4em 1.2em; margin: 0"
    return f"<dl style='{look}'>{''.join(rows)}</dl>"


def sorry(error: Exception) -> str:
    """Return the HTML of an error, as one sentence."""
    look = "border-left: 4px solid #d6273c; padding: 0.5em 0.8em"
    return f"<p role='alert' style='{look}'>{escape(sentence(error))}</p>"


def _legend() -> str:
    look = "display: inline-block; width: 1em; height: 1em; vertical-align: -0.1em; margin-right: 0.4em"
    chips = (
        f"<span><i style='background: rgb{colour}; border: 1px solid #888; {look}'></i>{name}</span>"
        for name, colour in LEGEND
    )
    return f"<div style='display: flex; flex-wrap: wrap; gap: 0.3em 1.2em'>{''.join(chips)}</div>"
