"""The tab Compare: one prompt and seed, drawn plainly and with methods."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import gradio as gr

from . import pictures, restore, share
from .asked import Asked
from .bar import bar
from .engine import Done, Place, sentence
from .facts import CHANGED, PLAIN
from .form import Form
from .line import Control, Waiting
from .results import Results
from .server import QUIET, SILENT, Server
from .watch import Step

LABEL = "Compare"
PREVIEW = 2  # steps between two previews
LOOK = "() => document.getElementById('status').scrollIntoView({block: 'nearest', behavior: 'smooth'})"
LINK = "(query) => query ? window.location.origin + window.location.pathname + query : ''"


def build(server: Server) -> None:
    """Make the tab. Call it inside its `gr.Tab`."""
    form, results = Form(server.models), Results(server.models, server.engine.dtype)
    with gr.Row():
        with gr.Column(scale=4, min_width=320):
            form.build()
            with gr.Accordion("Take the settings of a picture", open=False, elem_id="restore"):
                file = gr.File(
                    label="A picture or clip of this page, of generate or of compare",
                    file_types=[".png", ".jpg", ".jpeg", ".webp", ".mp4"],
                    height=120,
                    elem_id="drop",
                )
        with gr.Column(scale=6, min_width=320):
            results.build()

    def generate(request: gr.Request, *values: Any) -> Iterator[dict[Any, Any]]:
        try:
            yield from _run(server, results, request.session_hash, form.read(values))
        except (ValueError, OSError) as error:
            yield results.failed(sentence(error))

    def restored(path: str | None, model: str) -> dict[Any, Any]:
        if path is None:
            return {results.status: gr.skip()}
        try:
            found = form.fill(restore.read(path, server.models, model))
        except (ValueError, OSError) as error:
            return {results.status: bar(0, f"The file was not used: {sentence(error)}")}
        return {**found, results.status: bar(0, "The settings of the file are in the form.")}

    def linked(request: gr.Request) -> dict[Any, Any]:
        try:
            asked = share.read(dict(request.query_params))
            found = {} if asked is None else form.fill(asked)
        except (ValueError, OSError) as error:
            return {results.status: bar(0, f"The link was not used: {sentence(error)}")}
        return found or {results.status: gr.skip()}

    every = [*form.inputs, form.examples, form.refused, *form.groups.values(), results.status]
    gr.on(
        [form.go.click, form.prompt.submit],
        generate,
        form.inputs,
        results.outputs,
        **server.lane,
        **QUIET,
    )
    form.go.click(None, js=LOOK, **QUIET)  # on a narrow screen the pictures are below
    form.stop.click(server.cancel, queue=False, api_visibility="private")
    form.wire()
    file.upload(restored, [file, form.model], every, **SILENT)
    form.draw.click(lambda: "-1", None, form.seed, **SILENT)
    form.again.click(lambda seed: seed or gr.skip(), results.seed, form.seed, **SILENT)
    results.query.change(None, results.query, results.link, js=LINK, **QUIET)
    gr.on(None, linked, None, every, **SILENT)  # on load


def _run(server: Server, results: Results, visitor: str, asked: Asked) -> Iterator[dict[Any, Any]]:
    """Yield the updates of a run: previews, the plain picture as soon as it is made, and the end."""
    folder = server.folder.fresh()
    plain = Asked(asked.prompt, asked.model, (), asked.call, asked.seed)
    total = 2 if asked.methods else 1

    def work(control: Control, place: Place) -> list[pictures.Made]:
        control.show(Step(0.0, f"getting {asked.model} ready"))
        began = time.monotonic()
        made = [pictures.make(control, place, plain, folder, label=PLAIN, previews=PREVIEW, total=total)]
        control.show(made[0])
        if asked.methods:
            before = 1, time.monotonic() - began
            same = asked.with_seed(made[0].seed)
            more = {"label": CHANGED, "previews": PREVIEW, "total": total, "before": before}
            made.append(pictures.make(control, place, same, folder, **more))
        return made

    first = None
    yield results.begin()
    for event in server.engine.run(visitor, work):
        if isinstance(event, Step):
            yield results.step(event, first)
        elif isinstance(event, Waiting):
            yield results.step(Step(0.0, event.words), first)
        elif isinstance(event, pictures.Made):
            first = event
            yield results.plain(event, more=total > 1)
        elif isinstance(event, Done):
            yield results.done(event.result, asked)
