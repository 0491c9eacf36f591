"""The tab Batch: many prompts from a file or a job file, made one by one, to be fetched as a zip."""

from __future__ import annotations

import shutil
from html import escape
from typing import Any

import gradio as gr
from gradio.context import Context

from . import batch_files, batch_form, batch_view
from .batch_view import closed, known, opened, view
from .engine import sentence
from .server import QUIET, SILENT, Server, said, toast

LABEL = "Batch"
KEY = "diffusers-ext-batches"  # of what a browser remembers; a BrowserState in a tab is read too late
MINE = f"() => localStorage.getItem('{KEY}') ?? '[]'"
LINK = (
    f"(id, mine) => {{ localStorage.setItem('{KEY}', mine); "
    "return id ? `${location.origin}${location.pathname}?batch=${id}` : '' }"
)
SHOW = """() => { if (new URLSearchParams(location.search).has('batch')) {
  const tabs = [...document.querySelectorAll('button[role=tab]')]
  tabs.find((tab) => tab.textContent.trim() === 'Batch')?.click() } }"""


def build(server: Server) -> None:
    """Make the tab. Call it inside its `gr.Tab`."""
    batches = server.batches
    mine = gr.Textbox("[]", visible=False)
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            form = batch_form.build(server)
            start = gr.Button("Start", variant="primary", elem_id="batch-start", elem_classes="go")
        with gr.Column(scale=3, min_width=300):
            chosen = gr.Dropdown(
                [],
                label="Batch",
                allow_custom_value=True,
                info="those that this browser started; or paste the link of another",
                elem_id="batch-chosen",
            )
            shown = batch_view.Shown.build()
            link = gr.Textbox(
                label="Link to this batch", interactive=False, buttons=["copy"], elem_id="batch-link"
            )
            with gr.Row():
                pack = shown.button("Make zip", "pack")
                show = shown.button("Open report", "show")
            with gr.Row():
                zipped, paper = (
                    gr.DownloadButton(f"Download {name}", visible=False, size="sm", elem_id=f"batch-{name}")
                    for name in ("zip", "report")
                )
            report = gr.HTML("", padding=False, elem_id="batch-frame", elem_classes="batch-report")

    def begin(mine: Any, *values: Any) -> list[Any]:
        with said():
            batch = batches.create(*batch_form.asked(dict(zip(form, values, strict=True))))
        return opened(batch, known(batches, mine))

    def choose(text: Any, mine: Any) -> list[Any]:
        if not text:
            return closed(known(batches, mine))
        with said():
            return opened(batches.get(text), known(batches, mine))

    def load(request: gr.Request, mine: Any) -> list[Any]:
        try:
            if asked := request.query_params.get("batch", ""):
                return opened(batches.get(asked), known(batches, mine))
        except ValueError as error:
            gr.Warning(toast(error))
        return closed(known(batches, mine))

    def turn(text: Any, page: Any) -> list[Any]:
        with said():
            return view(batches.get(text), page)

    def tick(text: Any, page: Any, seen: str) -> list[Any]:
        try:
            found = view(batches.get(text), page)
        except ValueError as error:  # of a batch that someone deleted, or of a page that is no number
            return batch_view.ended(sentence(error))
        return found if found[-1] != seen else [gr.skip()] * len(found)

    def halt(text: Any, page: Any) -> list[Any]:
        with said():
            batch = batches.get(text)
            batch.stop()
            batch.join(3)
            return view(batch, page)

    def go_on(text: Any, page: Any) -> list[Any]:
        with said():
            return view(batches.start(text), page)

    def delete(text: Any, mine: Any) -> list[Any]:
        with said():
            batch = batches.get(text)
            batches.delete(batch.id)
            shutil.rmtree(server.folder.of_batch(batch.id))
        return closed(known(batches, mine))

    def packed(text: Any) -> Any:
        with said():
            batch = batches.get(text)
            path = batch_files.archive(batch, server.folder.of_batch(batch.id))
        return gr.update(value=str(path), visible=True)

    def reported(text: Any) -> list[Any]:
        with said():
            batch = batches.get(text)
            path = batch_files.report(batch, server.folder.of_batch(batch.id))
        source = escape(path.read_text(encoding="utf-8"), quote=True)
        frame = f'<iframe sandbox="" title="Report of the batch" srcdoc="{source}"></iframe>'
        return [frame, gr.update(value=str(path), visible=True)]

    outputs = [chosen, mine, *shown.outputs, zipped, paper, report]
    to_link = {"fn": None, "inputs": [chosen, mine], "outputs": link, "js": LINK, **SILENT}
    start.click(begin, [mine, *form.values()], outputs, **QUIET).success(**to_link)
    chosen.input(choose, [chosen, mine], outputs, **QUIET).success(**to_link)
    shown.page.submit(turn, [chosen, shown.page], shown.outputs, **QUIET)
    shown.timer.tick(tick, [chosen, shown.page, shown.seen], shown.outputs, **SILENT)
    shown.stop.click(halt, [chosen, shown.page], shown.outputs, **SILENT)
    shown.go_on.click(go_on, [chosen, shown.page], shown.outputs, **SILENT)
    shown.delete.click(delete, [chosen, mine], outputs, **QUIET).success(**to_link)
    pack.click(packed, chosen, zipped, api_visibility="private")
    show.click(reported, chosen, [report, paper], api_visibility="private")
    form["files"].upload(lambda: "", None, form["prompts"], **SILENT)
    loaded = Context.root_block.load(load, mine, outputs, js=MINE, **QUIET)
    loaded.then(**to_link).then(None, None, None, js=SHOW, **SILENT)
