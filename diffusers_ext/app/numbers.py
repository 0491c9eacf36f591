"""Make fields for numbers that may be left empty; a `gr.Number` shows 0 where it has no value."""

from __future__ import annotations

from math import isfinite
from reprlib import repr as repr_of
from typing import Any

import gradio as gr

from ..errors import MethodError


def field(label: str, empty: str, place: str, **more: Any) -> gr.Textbox:
    """Make a field; `empty` says what holds without a number, and `place` is its id in the page."""
    return gr.Textbox(label=label, placeholder=empty, max_lines=1, min_width=110, elem_id=place, **more)


def read(text: Any, label: str) -> int | float | None:
    """Return the number in a field, `None` for an empty one. Raises `MethodError` for what is no number."""
    text = str("" if text is None else text).strip()
    if not text:
        return None
    try:
        value = float(text)
        if not isfinite(value):
            raise ValueError
        return int(text) if value.is_integer() and "e" not in text.lower() and "." not in text else value
    except ValueError:
        raise MethodError(f"{label} is a number, got {repr_of(text)}; leave it empty otherwise.") from None
