"""The tab Search: many starts of a prompt, scored while they run, of which the best picture is kept."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr
from PIL import Image

from ..settings import samplers
from ..settings.registry import SAMPLERS
from . import facts, search_chart, search_form
from .bar import bar
from .engine import Done, sentence
from .line import Waiting
from .search_run import Found, search
from .search_watch import Look
from .server import QUIET, SILENT, Server, toast

LABEL = "Search"


def build(server: Server) -> None:
    """Make the tab. Call it inside its `gr.Tab`."""
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            form, groups = search_form.build(server.models)
            with gr.Row():
                go = gr.Button("Search", variant="primary", elem_id="search-go", elem_classes="go")
                stop = gr.Button("Cancel", variant="stop", elem_id="search-cancel")
        with gr.Column(scale=3, min_width=300):
            state = gr.HTML(bar(0, "Nothing runs."), elem_id="search-state")
            best = gr.Image(
                label="Best picture so far",
                alt_text="The best picture of the search",
                type="filepath",
                format="png",
                interactive=False,
                height=280,
                elem_id="search-best",
                buttons=["download", "fullscreen"],
            )
            clip = gr.Video(label="Best clip", visible=False, interactive=False, elem_id="search-clip")
            curve = gr.HTML(search_chart.EMPTY, elem_id="search-curve")
            lanes = gr.HTML("", elem_id="search-lanes", elem_classes="search-lanes")
            with gr.Accordion("Pictures of the candidates", open=False):
                sheet = gr.Image(
                    alt_text="The pictures of all candidates, with their scores",
                    type="filepath",
                    format="png",
                    interactive=False,
                    show_label=False,
                    elem_classes="sharp",
                    elem_id="search-sheet",
                )
            with gr.Row():
                files = [
                    gr.DownloadButton(
                        label, size="sm", interactive=False, min_width=90, elem_id=f"search-{name}"
                    )
                    for label, name in (
                        ("Picture", "picture"),
                        ("Candidates", "candidates"),
                        ("Data", "data"),
                    )
                ]
    outputs = [state, best, clip, curve, lanes, sheet, *files]

    def run(request: gr.Request, *values: Any) -> Iterator[list[Any]]:
        try:
            wanted, folder = form.read(values), server.folder.fresh()
            yield [
                bar(0, "Waits for its turn, and loads the model."),
                gr.update(value=None, label="Best picture so far", visible=True),
                gr.update(value=None, visible=False),
                search_chart.EMPTY,
                "",
                None,
                *[gr.update(value=None, interactive=False)] * 3,
            ]
            events = server.engine.run(request.session_hash, lambda c, p: search(c, p, wanted, folder))
            for event in events:
                if isinstance(event, Look):
                    yield _looked(event)
                elif isinstance(event, Waiting):
                    yield [bar(0, event.words), *[gr.skip()] * (len(outputs) - 1)]
                elif isinstance(event, Done):
                    yield _found(event.result)
        except (ValueError, OSError) as error:
            yield [bar(0, sentence(error)), *[gr.skip()] * (len(outputs) - 1)]
            raise gr.Error(toast(error), print_exception=False) from None

    gr.on(
        [go.click, form.own["prompt"].submit],
        run,
        form.inputs,
        outputs,
        **server.lane,
        **QUIET,
    )
    stop.click(server.cancel, queue=False, api_visibility="private")
    gr.on(
        [form.own["sampler"].change, form.own["refine"].change],
        lambda sampler, refine: [
            facts.about(samplers.named(sampler).cls),
            *(gr.update(visible=n in (sampler, refine)) for n in SAMPLERS),
        ],
        [form.own["sampler"], form.own["refine"]],
        groups,
        **SILENT,
    )


def _looked(look: Look) -> list[Any]:
    picture = gr.skip()
    if look.picture is not None:
        picture = gr.update(value=look.picture, elem_classes=_small(look.picture.width))
    state = bar(look.share, look.words)
    chart = search_chart.curve(look) if look.curve else gr.skip()
    return [state, picture, gr.skip(), chart, search_chart.lanes(look), *[gr.skip()] * 4]


def _found(found: Found) -> list[Any]:
    verdict = {True: "right, ", False: "wrong, ", None: ""}[found.correct]
    ended = "Cancelled; the best finished picture is kept" if found.record.get("stopped") else "Done"
    state = bar(1, f"{ended}: {verdict}{found.reason}.", found.words)
    paths = found.path, found.sheet, found.data
    files = [gr.update(value=str(path), interactive=True) for path in paths]
    name = f"Best picture, seed {found.seed} of the search"
    picture, clip = gr.update(visible=False), gr.update(visible=False)
    if found.clip:
        clip = gr.update(value=str(found.path), visible=True)
    else:
        with Image.open(found.path) as image:
            small = _small(image.width)
        picture = gr.update(value=str(found.path), label=name, elem_classes=small)
    look = found.look
    charts = search_chart.curve(look), search_chart.lanes(look)
    return [state, picture, clip, *charts, str(found.sheet), *files]


def _small(width: int) -> list[str]:
    return ["sharp"] if width < 192 else []
