"""The tab Compare: one prompt and seed, drawn plainly and with methods."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from ..settings.registry import METHODS
from . import controls, pictures
from .asked import Asked
from .engine import Control, Done, Place, known_settings
from .line import Waiting
from .server import LANE, Server, said
from .watch import Step

LABEL = "Compare"
PROMPT = "a red circle and a blue square"


def build(server: Server) -> None:
    """Make the tab. Call it inside its `gr.Tab`."""
    first = server.models.names()[2] if "shapes-sd" not in server.models.names() else "shapes-sd"
    known = known_settings(server.models.resolve(first))
    prompt = gr.Textbox(label="Prompt", value=PROMPT, lines=2, elem_id="prompt")
    with gr.Row():
        model = gr.Dropdown(server.models.names(), value=first, label="Model", elem_id="model")
        seed = gr.Number(label="Seed", value=0, precision=0, minimum=-1, info="-1 draws one", elem_id="seed")
    chosen = gr.CheckboxGroup(list(METHODS), value=["softpag"], label="Methods", elem_id="methods")
    fields: dict[str, list[controls.Field]] = {}
    groups = []
    for name in METHODS:
        with gr.Accordion(name, open=False, visible=name == "softpag") as group:
            fields[name] = controls.of_method(name, known.get(name, {}))
        groups.append(group)
    with gr.Row():
        go = gr.Button("Generate", variant="primary", elem_id="generate")
        stop = gr.Button("Cancel", variant="stop", elem_id="cancel")
    status = gr.Textbox(label="Progress", interactive=False, elem_id="status")
    with gr.Row():
        slider = gr.ImageSlider(label="plain | with methods", type="filepath", format="png", elem_id="slider")
        files = gr.Gallery(label="Pictures", format="png", elem_id="pictures")
    verdict = gr.Markdown(elem_id="verdict")
    every = [field for name in METHODS for field in fields[name]]

    def run(
        request: gr.Request, prompt: str, model: str, seed: float, names: list[str], *values: Any
    ) -> Iterator[Any]:
        at, tables = 0, []
        for name in METHODS:
            own = values[at : at + len(fields[name])]
            at += len(fields[name])
            if name in names:
                tables.append({"name": name, **controls.table(fields[name], own)})
        asked = Asked.of({"prompt": prompt, "model": model, "seed": seed, "methods": tables})
        folder = server.folder.fresh()

        def work(control: Control, place: Place) -> list[pictures.Made]:
            plain = pictures.make(
                control,
                place,
                Asked(asked.prompt, asked.model, (), asked.call, asked.seed),
                folder,
                label="plain",
                previews=4,
            )
            same = asked.with_seed(plain.seed)
            return [plain, pictures.make(control, place, same, folder, label="with methods", previews=4)]

        for event in server.engine.run(request.session_hash, work):
            if isinstance(event, (Step, Waiting)):
                yield event.words, gr.skip(), gr.skip(), gr.skip()
            elif isinstance(event, Done):
                made = event.result
                words = "\n\n".join(f"{m.reason} {m.seconds:.2f} s {' '.join(m.report)}" for m in made)
                yield "done", tuple(str(m.path) for m in made), [str(m.path) for m in made], words

    def generate(request: gr.Request, *args: Any) -> Iterator[Any]:
        with said():
            yield from run(request, *args)

    inputs = [prompt, model, seed, chosen, *(field.control for field in every)]
    gr.on(
        [go.click, prompt.submit],
        generate,
        inputs,
        [status, slider, files, verdict],
        concurrency_id=LANE,
        concurrency_limit=server.workers,
        api_visibility="private",
        show_progress="hidden",
    )
    stop.click(server.cancel, queue=False, api_visibility="private")
    chosen.change(
        lambda names: [gr.update(visible=name in names) for name in METHODS],
        chosen,
        groups,
        queue=False,
        api_visibility="private",
        show_progress="hidden",
    )
