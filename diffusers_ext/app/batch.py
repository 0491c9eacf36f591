"""The tab Batch: many prompts from a file or a job file, made one by one, to be fetched as a zip."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.context import Context

from ..settings.registry import METHODS, SAMPLERS
from . import batch_files
from .bar import bar
from .batch_store import Batch, read
from .server import Server, said

LABEL = "Batch"
NONE = "nothing"
ENDINGS = [".toml", ".txt", ".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".png", ".jpg", ".jpeg", ".webp"]
HEADS = ["number", "prompt", "seed", "state", "verdict", "seconds"]
ROWS = 50  # of the table at a time
MINE = 50  # batches that a browser remembers
CSS = """<style>
.batch-report iframe { width: 100%; height: 34rem; border: 1px solid var(--border-color-primary) }
</style>"""
LINK = "(id) => id ? `${location.origin}${location.pathname}?batch=${id}` : ''"
SHOW = """() => { if (new URLSearchParams(location.search).has('batch')) {
  const tabs = [...document.querySelectorAll('button[role=tab]')]
  tabs.find((tab) => tab.textContent.trim() === 'Batch')?.click() } }"""


def build(server: Server) -> None:
    """Make the tab. Call it inside its `gr.Tab`."""
    gr.HTML(CSS, padding=False)
    mine = gr.BrowserState([], storage_key="diffusers-ext-batches", secret="diffusers-ext")
    seen = gr.State("")
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            form = _form(server)
            start = gr.Button("Start", variant="primary", elem_id="batch-start")
        with gr.Column(scale=3, min_width=300):
            chosen = gr.Dropdown(
                [],
                label="Batch",
                allow_custom_value=True,
                info="those that this browser started; or paste the link of another",
                elem_id="batch-chosen",
            )
            state = gr.HTML(bar(0, "No batch is open."), elem_id="batch-state")
            with gr.Row():
                stop = _button("Stop", "stop")
                go_on = _button("Go on", "go-on")
                delete = _button("Delete", "delete")
            link = gr.Textbox(
                label="Link to this batch", interactive=False, buttons=["copy"], elem_id="batch-link"
            )
            table = gr.Dataframe(
                headers=HEADS,
                interactive=False,
                wrap=True,
                max_height=360,
                label="Pictures",
                elem_id="batch-table",
            )
            page = gr.Number(
                label="Page of the table",
                value=None,
                precision=0,
                minimum=1,
                info=f"{ROWS} pictures on each; empty: where the batch is",
                elem_id="batch-page",
            )
            with gr.Row():
                zipped = _button("Make zip", "zip")
                shown = _button("Open report", "report")
            with gr.Row():
                files = [
                    gr.DownloadButton(label, visible=False, size="sm", elem_id=f"batch-{name}-file")
                    for label, name in (("Download zip", "zip"), ("Download report", "report"))
                ]
            report = gr.HTML("", elem_id="batch-report", elem_classes="batch-report")
    timer = gr.Timer(1.0, active=False)
    buttons = [stop, go_on, delete, zipped, shown]
    view = [state, table, *buttons, timer, seen]
    private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}

    def begin(mine: Any, *values: Any) -> list[Any]:
        with said():
            batch = server.batches.create(*_asked(dict(zip(form, values, strict=True))))
        return _opened(batch, [[batch.id, batch.title], *_known(server, mine)])

    def choose(text: Any, page: Any) -> list[Any]:
        if not text:
            return _closed()
        with said():
            return [_id(text), *_view(server.batches.get(text), page), *_no_files()]

    def tick(text: Any, page: Any, seen: str) -> list[Any]:
        try:
            batch = server.batches.get(text)
        except ValueError:
            return [bar(0, "This batch was deleted."), *[gr.skip()] * 6, gr.update(active=False), ""]
        found = _view(batch, page)
        return found if found[-1] != seen else [gr.skip()] * len(found)

    def act(name: str) -> Any:
        def event(text: Any, page: Any) -> list[Any]:
            with said():
                batch = server.batches.get(text)
                batch.stop() if name == "stop" else batch.start()
            if name == "stop":
                batch.join(3)
            return _view(batch, page)

        return event

    def remove(text: Any, mine: Any) -> list[Any]:
        with said():
            server.batches.delete(text)
        kept = [pair for pair in _known(server, mine) if pair[0] != _id(text)]
        return [_choices(kept, None), kept, *_closed()[1:]]

    def pack(text: Any) -> Any:
        with said():
            path = batch_files.archive(server.batches.get(text), server.folder.fresh())
        return gr.update(value=str(path), visible=True)

    def show(text: Any) -> list[Any]:
        with said():
            path = batch_files.report(server.batches.get(text), server.folder.fresh())
        source = escape(path.read_text(encoding="utf-8"), quote=True)
        frame = f'<iframe sandbox="" title="Report of the batch" srcdoc="{source}"></iframe>'
        return [frame, gr.update(value=str(path), visible=True)]

    def load(request: gr.Request, mine: Any) -> list[Any]:
        asked, known = request.query_params.get("batch", ""), _known(server, mine)
        if not asked:
            return [_choices(known, None), known, *_closed()[1:]]
        try:
            batch = server.batches.get(asked)
        except ValueError as error:
            gr.Warning(str(error))
            return [_choices(known, None), known, *_closed()[1:]]
        return _opened(batch, [[batch.id, batch.title], *(pair for pair in known if pair[0] != batch.id)])

    opened = [chosen, mine, *view, *files, report]
    to_link = {"fn": None, "inputs": chosen, "outputs": link, "js": LINK, "queue": False, **private}
    start.click(begin, [mine, *form.values()], opened, **private).success(**to_link)
    gr.on(
        [chosen.input, chosen.select], choose, [chosen, page], [chosen, *view, *files, report], **private
    ).success(**to_link)
    page.change(
        lambda text, page: _view(server.batches.get(text), page) if text else _closed()[1:-3],
        [chosen, page],
        view,
        **private,
    )
    timer.tick(tick, [chosen, page, seen], view, queue=False, **private)
    stop.click(act("stop"), [chosen, page], view, queue=False, **private)
    go_on.click(act("go on"), [chosen, page], view, queue=False, **private)
    delete.click(remove, [chosen, mine], opened, **private).success(**to_link)
    zipped.click(pack, chosen, files[0], api_visibility="private")
    shown.click(show, chosen, [report, files[1]], api_visibility="private")
    form["files"].upload(lambda: "", None, form["prompts"], queue=False, **private)
    Context.root_block.load(load, mine, opened, js=None, **private).then(**to_link).then(
        None, None, None, js=SHOW, queue=False, **private
    )


def _form(server: Server) -> dict[str, gr.components.Component]:
    names = server.models.names()
    own: dict[str, gr.components.Component] = {}
    own["files"] = gr.File(
        label="Prompt files, or a job file with those that it names",
        file_count="multiple",
        file_types=ENDINGS,
        height=140,
        elem_id="batch-files",
    )
    own["prompts"] = gr.Textbox(
        label="Prompts",
        info="one on each line; a job file decides all of these itself",
        value="a red circle and a blue square\na yellow triangle",
        lines=4,
        elem_id="batch-prompts",
    )
    with gr.Row():
        own["model"] = gr.Dropdown(
            names,
            value="shapes-sd" if "shapes-sd" in names else names[0],
            label="Model",
            allow_custom_value=server.models.hub,
            min_width=120,
            elem_id="batch-model",
        )
        own["seeds"] = gr.Textbox(
            label="Seeds",
            value="0-3",
            info="of each prompt: 7, 0-3 or 1, 5",
            min_width=120,
            elem_id="batch-seeds",
        )
    with gr.Accordion("More", open=False):
        own["methods"] = gr.CheckboxGroup(
            list(METHODS),
            label="Methods",
            info="with the settings that are known for the model",
            elem_id="batch-methods",
        )
        own["sampler"] = gr.Dropdown(
            [NONE, *SAMPLERS], value=NONE, label="Search", info="for each picture", elem_id="batch-sampler"
        )
        own["budget"] = gr.Number(
            label="Budget (evaluations)",
            value=240,
            precision=0,
            minimum=1,
            info="of a search",
            elem_id="batch-budget",
        )
        own["negative_prompt"] = gr.Textbox(label="Negative prompt", elem_id="batch-negative")
        usual = {"value": None, "min_width": 100, "info": "empty: the model's own"}
        with gr.Row():
            own["num_inference_steps"] = gr.Number(label="Steps", precision=0, elem_id="batch-steps", **usual)
            own["guidance_scale"] = gr.Number(label="Guidance", elem_id="batch-guidance", **usual)
        with gr.Row():
            own["height"] = gr.Number(label="Height (px)", precision=0, elem_id="batch-height", **usual)
            own["width"] = gr.Number(label="Width (px)", precision=0, elem_id="batch-width", **usual)
    return own


def _asked(own: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Path], str]:
    """Return tables of a job, prompt files and a title. Raises `ValueError` in one sentence."""
    paths = [Path(path) for path in own["files"] or ()]
    texts = [line.strip() for line in (own["prompts"] or "").splitlines() if line.strip()]
    data, files, title = read(paths) if paths else ({"prompts": {}}, {}, "")
    if len(files) < len(paths):  # there is a job file
        return data, files, title
    if texts:
        data["prompts"]["texts"] = texts
    if not texts and not files:
        raise ValueError("a batch needs prompts, got none; write some, one on each line, or upload a file")
    data["prompts"]["seeds"] = _seeds(own["seeds"] or "0")
    data["model"] = {"name": own["model"]}
    data["method"] = [{"name": name} for name in own["methods"]]
    names = ("negative_prompt", "num_inference_steps", "guidance_scale", "height", "width")
    data["call"] = {name: own[name] for name in names if own[name]}
    if own["sampler"] != NONE:
        data["sampler"] = {"name": own["sampler"], "budget": own["budget"] or 240}
    return data, files, title or texts[0][:60]


def _seeds(text: str) -> Any:
    """Return seeds as a job file has them: a number, a list, or a range as text."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    numbers = [int(part) if part.isascii() and part.isdecimal() else part for part in parts]
    return numbers[0] if len(numbers) == 1 else numbers


def _known(server: Server, mine: Any) -> list[list[str]]:
    """Return ids and titles that a browser remembers, without those that are gone."""
    pairs = mine if isinstance(mine, list) else []
    fine = [p for p in pairs if isinstance(p, list) and len(p) == 2 and all(isinstance(t, str) for t in p)]
    return [[_id(i), title[:80]] for i, title in fine[:MINE] if server.batches.has(i)]


def _id(text: Any) -> str:
    return str(text)[-32:]


def _choices(known: Sequence[Sequence[str]], value: str | None) -> Any:
    return gr.update(choices=[(f"{title} ({i[:6]})", i) for i, title in known], value=value)


def _opened(batch: Batch, known: list[list[str]]) -> list[Any]:
    return [_choices(known, batch.id), known[:MINE], *_view(batch, None), *_no_files()]


def _closed() -> list[Any]:
    off = gr.update(interactive=False)
    return [None, bar(0, "No batch is open."), [], *[off] * 5, gr.update(active=False), "", *_no_files()]


def _no_files() -> list[Any]:
    return [gr.update(value=None, visible=False)] * 2 + [""]


def _view(batch: Batch, page: Any) -> list[Any]:
    """Return what the page shows of a batch; last comes what changes whenever anything does."""
    done, _, failed = batch.counts()
    first = (int(page) - 1) * ROWS if page else min(batch.now(), batch.total - 1) // ROWS * ROWS
    rows = [
        [
            e.number,
            e.prompt if not e.point else f"{e.prompt} ({e.point})",
            e.seed,
            e.state,
            e.verdict,
            _round(e.seconds),
        ]
        for e in batch.entries(first, ROWS)
    ]
    running, over = batch.running, done + failed >= batch.total and not failed
    words = batch.words()
    if (left := batch.left_s()) is not None:
        words += f", about {left:.0f} s left"
    on = [running, not running and not over, not running, done > 0, done > 0]
    updates = [gr.update(interactive=value) for value in on]
    state = bar((done + failed) / batch.total, words, batch.notes)
    return [state, rows, *updates, gr.update(active=running), f"{batch.id} {words} {first} {running}"]


def _round(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.2f}"


def _button(label: str, name: str) -> gr.Button:
    return gr.Button(label, size="sm", interactive=False, min_width=90, elem_id=f"batch-{name}")
