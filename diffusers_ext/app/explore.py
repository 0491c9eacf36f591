"""The tab Explore: where words are, what heads do, and what a sparse method lets a token see."""

from __future__ import annotations

import gradio as gr

from . import masks
from .server import Server

LABEL = "Explore"


def build(server: Server) -> None:
    """Make the tab. Call it inside its `gr.Tab`."""
    with gr.Tabs(), gr.Tab(masks.LABEL, id="explore-masks") as tab:
        masks.build(tab)
