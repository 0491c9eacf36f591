"""The tab Explore: where words are, what heads do, and what a sparse method lets a token see."""

from __future__ import annotations

import gradio as gr

from . import heads, maps, masks
from .server import Server

LABEL = "Explore"


def build(server: Server) -> None:
    """Make the tab. Call it inside its `gr.Tab`."""
    with gr.Tabs():
        with gr.Tab(maps.LABEL, id="explore-words"):
            maps.build(server)
        with gr.Tab(heads.LABEL, id="explore-heads") as tab:
            heads.build(server, tab)
        with gr.Tab(masks.LABEL, id="explore-masks") as tab:
            masks.build(tab)
