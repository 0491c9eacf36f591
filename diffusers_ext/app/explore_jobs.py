"""Hold what the sections of Explore that run a model share: the prompt, its job, and what is said of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from .asked import Asked
from .engine import Done, Place
from .line import CANCELLED, Control, Refused, Waiting
from .server import LANE, Server, said
from .watch import Step

MODEL = "shapes-sd"
PROMPT = "a red circle and a blue square"
SILENT = {"queue": False, "api_visibility": "private", "show_progress": "hidden"}


@dataclass(frozen=True)
class Asking:
    """The controls of a prompt, in the order in which handlers get their values, and the buttons below."""

    prompt: gr.Textbox
    model: gr.Dropdown
    seed: gr.Textbox
    steps: gr.Number

    @classmethod
    def of(cls, server: Server, prefix: str) -> Asking:
        """Make the controls; `prefix` begins their names."""
        prompt = gr.Textbox(label="Prompt", value=PROMPT, lines=2, elem_id=f"{prefix}-prompt")
        names = server.models.names()
        with gr.Row():
            chosen = gr.Dropdown(
                names,
                value=MODEL if MODEL in names else names[0],
                label="Model",
                allow_custom_value=server.models.hub,
                min_width=120,
                elem_id=f"{prefix}-model",
            )
            seed = gr.Textbox(
                "0", label="Seed", max_lines=1, info="-1 draws one", min_width=90, elem_id=f"{prefix}-seed"
            )
            steps = gr.Number(
                None,
                label="Steps",
                precision=0,
                placeholder="usual",
                info="empty: usual",
                min_width=90,
                elem_id=f"{prefix}-steps",
            )
        return cls(prompt, chosen, seed, steps)

    @property
    def all(self) -> list[gr.components.Component]:
        """All controls, as `asked` reads their values."""
        return [self.prompt, self.model, self.seed, self.steps]

    @staticmethod
    def asked(prompt: str, model: str, seed: Any, steps: Any) -> Asked:
        """Return what the controls ask for. Raises `ValueError` in one sentence."""
        call = {"num_inference_steps": steps} if steps else {}
        return Asked.of({"prompt": prompt, "model": model, "seed": seed, "call": call})


def buttons(server: Server, prefix: str, label: str) -> tuple[gr.Button, gr.Textbox]:
    """Make the button that starts, with the given label, one that cancels, and the line of progress."""
    with gr.Row():
        go = gr.Button(label, variant="primary", elem_classes="go", elem_id=f"{prefix}-go")
        stop = gr.Button("Cancel", variant="stop", elem_id=f"{prefix}-cancel")
    status = gr.Textbox(label="Progress", interactive=False, max_lines=3, elem_id=f"{prefix}-status")
    stop.click(server.cancel, queue=False, api_visibility="private")
    return go, status


def lane(server: Server) -> dict[str, Any]:
    """Return the arguments of an event that runs a model."""
    return {
        "concurrency_id": LANE,
        "concurrency_limit": server.workers,
        "api_visibility": "private",
        "show_progress": "hidden",
    }


def running(
    server: Server, request: gr.Request, work: Callable[[Control, Place], Any]
) -> Iterator[tuple[str, Any]]:
    """Run a job, and yield words for the line of progress with what the job shows.

    The last has its result, in `Done`. A job that is cancelled ends with `None`; one that fails raises
    `gr.Error` as well.
    """
    try:
        for event in server.engine.run(request.session_hash, work):
            if isinstance(event, Done):
                yield "done", event
            else:
                yield event.words if isinstance(event, (Step, Waiting)) else "", event
    except Refused as refused:
        yield str(refused), None
        if str(refused) != CANCELLED:
            with said():
                raise
