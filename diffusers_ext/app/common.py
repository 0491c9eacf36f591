"""Make the controls that several tabs have: the model, methods, and arguments of a call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gradio as gr

from ..settings.registry import METHODS
from . import numbers
from .models import FIRST, Models

PROMPT = "a red circle and a blue square"
NONE = "nothing"  # of a search that may be left out
CALL = {  # arguments of a call, with label and name on the page
    "num_inference_steps": ("Steps", "steps"),
    "guidance_scale": ("Guidance", "guidance"),
    "height": ("Height (px)", "height"),
    "width": ("Width (px)", "width"),
}


def model(models: Models, place: str, **more: Any) -> gr.Dropdown:
    """Make the list of models; `place` is its id in the page."""
    return gr.Dropdown(
        models.names(),
        value=FIRST,
        label="Model",
        allow_custom_value=models.hub,
        elem_id=place,
        **more,
    )


def methods(prefix: str) -> gr.CheckboxGroup:
    """Make the list of methods; `prefix` begins its id in the page."""
    return gr.CheckboxGroup(
        list(METHODS),
        label="Methods",
        info="with the settings that are known for the model",
        elem_id=f"{prefix}-methods",
    )


def of_call(prefix: str) -> dict[str, gr.Textbox]:
    """Make the negative prompt and the numbers of a call, by the name of the argument."""
    own = {"negative_prompt": gr.Textbox(label="Negative prompt", elem_id=f"{prefix}-negative")}
    names = list(CALL)
    for pair in (names[:2], names[2:]):
        with gr.Row():
            for name in pair:
                label, place = CALL[name]
                own[name] = numbers.field(label, "the model's own", f"{prefix}-{place}")
    return own


def call(values: Mapping[str, Any]) -> dict[str, int | float]:
    """Return the numbers that are not empty. Raises `MethodError` for what is no number."""
    found = {name: numbers.read(values[name], name) for name in CALL}
    return {name: value for name, value in found.items() if value is not None}
