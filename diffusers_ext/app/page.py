"""Put the tabs of the page together."""

from __future__ import annotations

import gradio as gr

from . import batch, compare, search
from .folder import KEPT_S
from .server import Server

TITLE = "diffusers_ext"
TABS = (compare, search, batch)  # each has a LABEL and build(server)


def build(server: Server) -> gr.Blocks:
    """Return the page of a server."""
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(3600, KEPT_S)) as page:
        gr.Markdown(
            f"# {TITLE}\nMethods of recent papers on diffusion models: with and without, side by side."
        )
        with gr.Tabs():
            for tab in TABS:
                with gr.Tab(tab.LABEL, id=tab.LABEL.lower()):
                    tab.build(server)
        page.unload(server.cancel)
    return page
