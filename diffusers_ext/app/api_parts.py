"""Hold what endpoints for programs share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

LIGHT: dict[str, Any] = {"concurrency_id": "light", "concurrency_limit": 4}  # endpoints that run no model


def file(path: Path) -> dict[str, Any]:
    """Return a file as gradio sends it; programs get its content, and agents a link."""
    return gr.FileData(path=str(path), orig_name=path.name).model_dump()
