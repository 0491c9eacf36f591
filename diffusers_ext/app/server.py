"""Hold what all tabs of a server share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape
from typing import Any

import gradio as gr

from .batch_store import Batches
from .engine import Engine, sentence
from .folder import Folder
from .models import Models

QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}  # events of the page
SILENT = {"queue": False, **QUIET}  # those that run no model


@dataclass(frozen=True, slots=True)
class Server:
    """The engine, the folder and the batches of a server."""

    engine: Engine
    folder: Folder
    batches: Batches = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "batches", Batches(self.engine, self.folder.batches))

    @property
    def models(self) -> Models:
        """The models that visitors may name."""
        return self.engine.models

    @property
    def admitted(self) -> int:
        """The number of requests that gradio passes on at a time; they wait in the queue of the engine."""
        return self.engine.waiting + 2 * len(self.engine.devices)

    @property
    def lane(self) -> dict[str, Any]:
        """Arguments of all events that run a model."""
        return {"concurrency_id": "device", "concurrency_limit": self.admitted}

    def cancel(self, request: gr.Request) -> None:
        """Cancel all that a visitor has asked for, and that is not finished."""
        self.engine.cancel(request.session_hash)


@contextmanager
def said() -> Iterator[None]:
    """Show errors of the visitor as one sentence on the page, and to programs that call it."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise gr.Error(toast(error), print_exception=False) from None


def toast(error: Exception) -> str:
    """Return an error as one line for `gr.Error` and `gr.Warning`, which read their text as HTML."""
    return escape(sentence(error), quote=False)
