"""Hold what the sections of Explore that run a model share: the prompt, its job, and what is said of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from . import common
from .asked import Asked
from .engine import Done, Place, sentence
from .line import CANCELLED, Control, Waiting
from .server import Server, said
from .watch import Step

Work = Callable[[Control, Place], Any]


@dataclass(frozen=True)
class Asking:
    """The controls of a prompt, in the order in which handlers get their values, and the buttons below."""

    prompt: gr.Textbox
    model: gr.Dropdown
    seed: gr.Textbox
    steps: gr.Textbox

    @classmethod
    def of(cls, server: Server, prefix: str) -> Asking:
        """Make the controls; `prefix` begins their names."""
        prompt = gr.Textbox(label="Prompt", value=common.PROMPT, lines=2, elem_id=f"{prefix}-prompt")
        chosen = common.model(server.models, f"{prefix}-model")
        with gr.Row():
            seed, steps = (
                gr.Textbox(
                    value, label=label, info=info, max_lines=1, min_width=120, elem_id=f"{prefix}-{name}"
                )
                for name, label, value, info in (
                    ("seed", "Seed", "0", "-1 draws one"),
                    ("steps", "Steps", "", "empty: as the model was trained for"),
                )
            )
        return cls(prompt, chosen, seed, steps)

    @property
    def all(self) -> list[gr.components.Component]:
        """All controls, as `asked` reads their values."""
        return [self.prompt, self.model, self.seed, self.steps]

    @staticmethod
    def asked(prompt: str, model: str, seed: str, steps: str) -> Asked:
        """Return what the controls ask for. Raises `ValueError` in one sentence."""
        text = steps.strip()
        call = {"num_inference_steps": int(text) if text.isdecimal() else text} if text else {}
        return Asked.of({"prompt": prompt, "model": model, "seed": seed.strip(), "call": call})


def buttons(server: Server, prefix: str, label: str) -> tuple[gr.Button, gr.Textbox]:
    """Make the button that starts, with the given label, one that cancels, and the line of progress."""
    with gr.Row():
        go = gr.Button(label, variant="primary", elem_classes="go", elem_id=f"{prefix}-go")
        stop = gr.Button("Cancel", variant="stop", elem_id=f"{prefix}-cancel")
    status = gr.Textbox(label="Progress", interactive=False, max_lines=3, elem_id=f"{prefix}-status")
    stop.click(server.cancel, queue=False, api_visibility="private")
    return go, status


def running(server: Server, request: gr.Request, prepare: Callable[[], Work]) -> Iterator[tuple[str, Any]]:
    """Run the job that `prepare` gives, and yield words for the line of progress with what the job shows.

    The last has its result, in `Done`. A job that is cancelled ends with `None`. What fails, be it in
    `prepare`, ends with `None` and raises `gr.Error`, both with one sentence.
    """
    try:
        for event in server.engine.run(request.session_hash, prepare()):
            words = event.words if isinstance(event, (Step, Waiting)) else ""
            yield "done" if isinstance(event, Done) else words, event
    except (ValueError, OSError) as error:
        text = sentence(error)
        yield text, None
        if text != CANCELLED:
            with said():
                raise
