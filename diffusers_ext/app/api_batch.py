"""Give programs and agents batches: start one, look at it, stop it, go on with it, and fetch its files."""

# No `from __future__ import annotations`: gradio reads the types of parameters and results.

from typing import Any

import gradio as gr

from ..settings.fields import fit
from . import batch_files
from .api_parts import LIGHT, file
from .batch_state import Batch
from .server import Server, said

TITLE = "job of a program"


def build(server: Server) -> None:
    """Make the endpoints. Call it inside the `gr.Blocks` of a page."""
    batches = server.batches

    def batch(job: dict[str, Any]) -> dict[str, Any]:
        """Start the pictures of a job. Returns the id of the batch, and where it is.

        Parameters:
            job: Tables of a job file, as {"prompts": {"texts": ["a red circle"], "seeds": "0-3"}}.
        """
        with said():
            return _state(batches.create(fit(job, dict[str, Any], "job"), {}, TITLE))

    def batch_state(batch_id: str) -> dict[str, Any]:
        """Say where a batch is.

        Parameters:
            batch_id: The id that `batch` gave, or the link of a batch.
        """
        with said():
            return _state(batches.get(batch_id))

    def batch_stop(batch_id: str) -> dict[str, Any]:
        """Stop a batch within one step; what is finished stays.

        Parameters:
            batch_id: The id that `batch` gave, or the link of a batch.
        """
        with said():
            found = batches.get(batch_id)
            found.stop()
            found.join(3)
            return _state(found)

    def batch_go_on(batch_id: str) -> dict[str, Any]:
        """Go on with a batch that was stopped.

        Parameters:
            batch_id: The id that `batch` gave, or the link of a batch.
        """
        with said():
            return _state(batches.start(batch_id))

    def batch_zip(batch_id: str) -> dict[str, Any]:
        """Fetch what is finished of a batch: pictures, a table, a page and the settings.

        Parameters:
            batch_id: The id that `batch` gave, or the link of a batch.
        """
        with said():
            found = batches.get(batch_id)
            return file(batch_files.archive(found, server.folder.of_batch(found.id)))

    for fn in (batch, batch_state, batch_stop, batch_go_on, batch_zip):
        gr.api(fn, api_name=fn.__name__, **LIGHT)


def _state(batch: Batch) -> dict[str, Any]:
    done, right, failed = batch.counts()
    return {
        "id": batch.id,
        "text": batch.words(),
        "running": batch.running,
        "total": batch.total,
        "finished": done,
        "right": right,
        "failed": failed,
        "notes": list(batch.notes),
    }
