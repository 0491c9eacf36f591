"""Put the tabs of the page together."""

from __future__ import annotations

import logging
from typing import Any

import gradio as gr
from gradio_client import utils as client_utils

from . import api, api_batch, batch, compare, explore, search
from .batch_store import Batches
from .engine import Engine
from .folder import KEPT_S
from .server import Server

TITLE = "diffusers_ext"
TABS = (compare, explore, search, batch)  # each has a LABEL and build(server)


class Page(gr.Blocks):
    """A page whose refusals are one sentence, and that ends its jobs when it is closed."""

    engine: Engine
    batches: Batches

    def close(self, verbose: bool = True) -> None:
        """Stop serving, cancel all jobs, and wait for the last."""
        super().close(verbose=verbose)
        self.batches.close()
        self.engine.close()

    async def process_api(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Answer a request as gradio does. What fails without a sentence of its own gets one."""
        try:
            return await super().process_api(*args, **kwargs)
        except gr.Error:
            raise
        except Exception as error:
            logging.getLogger(__name__).error("a request failed", exc_info=error)
            raise gr.Error(
                "the server cannot answer this request; reload the page and try again", print_exception=False
            ) from None

    def validate_inputs(self, block_fn: Any, inputs: Any) -> None:
        """Raise `gr.Error` for a request with too few or too many inputs, or with a file by its address."""
        if (got := len(inputs)) != (wanted := len(block_fn.inputs)):
            raise gr.Error(
                f"{block_fn.api_name or 'this event'} takes {wanted} inputs, got {got}; "
                "/gradio_api/info lists them",
                print_exception=False,
            )
        client_utils.traverse(inputs, _no_address, client_utils.is_file_obj)


def build(server: Server) -> gr.Blocks:
    """Return the page of a server."""
    with Page(title=TITLE, analytics_enabled=False, delete_cache=(3600, KEPT_S)) as page:
        page.engine, page.batches = server.engine, server.batches
        gr.Markdown(
            f"# {TITLE}\nMethods of recent papers on diffusion models: with and without, side by side."
        )
        api.build(server)  # first, so that their names are their own
        api_batch.build(server)
        with gr.Tabs():
            for tab in TABS:
                with gr.Tab(tab.LABEL, id=tab.LABEL.lower()):
                    tab.build(server)
        page.unload(server.cancel)
    return page


def _no_address(file: Any) -> Any:
    """Refuse a file that the server would have to fetch; gradio does so for a path that is an address."""
    if client_utils.is_http_url_like(file["path"].strip()):
        raise gr.Error("the server fetches no addresses; send the file itself", print_exception=False)
    return file
