"""The section with attention heads: a picture for each, and those that are clicked perturbed together."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from typing import Any

import gradio as gr

from ..errors import MethodError
from ..explore.head_pictures import SCALE
from ..processors.softpag import SoftPAG
from ..settings.assign import settable
from . import heads_make
from .engine import Done
from .explore_jobs import SILENT, Asking, buttons, lane, running
from .heads_make import Drawn, Layers, Sheet
from .server import Server, said

LABEL = "Heads"
ABOUT = (
    "What does each attention head do? Every picture is guided away from a pass in which one head sees only "
    "itself. Click on one, and move the sliders."
)
FIRST = 6  # heads that are drawn at first, at least
ORDERS = ("as in the model", "largest change first")


def build(server: Server, tab: gr.Tab) -> None:
    """Make the section, which lists the layers of its model when `tab` is opened. Call it inside that tab."""
    layers_of = Layers()
    gr.Markdown(ABOUT)
    sheet = gr.State(time_to_live=24 * 3600)
    with gr.Row():
        with gr.Column(scale=2, min_width=320):
            asking = Asking.of(server, "heads")
            layers = gr.Dropdown(
                [],
                multiselect=True,
                label="Layers",
                info=f"empty: all; up to {heads_make.MOST} heads are drawn",
                elem_id="heads-layers",
            )
            scale, strength = (_slider(name, value) for name, value in (("scale", SCALE), ("strength", 1.0)))
            go, status = buttons(server, "heads", "Draw heads")
        with gr.Column(scale=3, min_width=320), gr.Column(visible=False) as found:
            order = gr.Radio(list(ORDERS), value=ORDERS[0], label="Order", elem_id="heads-order")
            grid = gr.Gallery(
                label="A picture for each head; the first is plain",
                columns=4,
                height="auto",
                object_fit="contain",
                format="png",
                allow_preview=False,
                interactive=False,
                buttons=["download_all"],
                elem_id="heads-grid",
                elem_classes="sharp",
            )
            chosen = gr.Dropdown(
                [],
                multiselect=True,
                label="Heads that are perturbed together",
                info="A click on a picture chooses its head; add others here.",
                elem_id="heads-chosen",
            )
            pair = gr.ImageSlider(
                label="plain | heads perturbed",
                type="filepath",
                format="png",
                height=384,
                interactive=False,
                elem_id="heads-pair",
                elem_classes="sharp",
            )
            about = gr.HTML(elem_id="heads-about")
            text = gr.Textbox(
                label="Settings of softpag with these heads",
                info="for --set heads=..., a job file or SoftPAG(heads=...)",
                buttons=["copy"],
                interactive=False,
                max_lines=6,
                elem_id="heads-json",
                elem_classes="mono",
            )

    def list_layers(request: gr.Request, model: str) -> Iterator[list[Any]]:
        known = layers_of.known(model)
        if known is None:
            for words, event in running(server, request, lambda control, place: layers_of.find(place, model)):
                known = event.result if isinstance(event, Done) else None
                yield [words if known is None else "ready", gr.skip()]
        if known is not None:
            names = short(known)
            choices = [(f"{names[path]} ({heads} heads)", path) for path, heads in known.items()]
            yield ["ready", gr.update(choices=choices, value=middle(known))]

    def run(request: gr.Request, *values: Any) -> Iterator[list[Any]]:
        *of_prompt, names, scale, strength, order = values
        with said():
            asked = asking.asked(*of_prompt)
            folder = server.folder.fresh()
        jobs = running(
            server,
            request,
            lambda control, place: heads_make.draw_sheet(
                control, place, asked, names or [], scale, strength, folder
            ),
        )
        for words, event in jobs:
            if isinstance(event, Done):
                yield [words, *_results(event.result, order)]
            else:
                yield [words, *[gr.skip()] * 7]

    def click(event: gr.SelectData, sheet: Sheet | None, order: str) -> list[Any]:
        if sheet is None or not event.index:
            return [gr.skip()] * 4
        head = sheet.ordered(order == ORDERS[1])[event.index - 1]
        return [[label(head)], *_shown(sheet, head, [head])]

    def perturb(
        request: gr.Request, sheet: Sheet | None, labels: Sequence[str], scale: float, strength: float
    ) -> Iterator[list[Any]]:
        with said():
            heads = _chosen(sheet, labels)
        if sheet is None or not heads:
            yield [gr.skip()] * 4
            return
        if len(heads) == 1 and (scale, strength) == (sheet.scale, sheet.strength):
            yield ["done", *_shown(sheet, heads[0], heads)]
            return
        numbers = _numbers(heads)
        jobs = running(
            server,
            request,
            lambda control, place: heads_make.perturb(
                control, place, sheet.asked, numbers, scale, strength, sheet.folder
            ),
        )
        for words, event in jobs:
            if isinstance(event, Done):
                yield [words, *_shown(sheet, event.result, heads)]
            else:
                yield [words, *[gr.skip()] * 3]

    results = [found, sheet, grid, chosen, pair, about, text]
    inputs = [*asking.all, layers, scale, strength, order]
    gr.on([go.click, asking.prompt.submit], run, inputs, [status, *results], **lane(server))
    grid.select(click, [sheet, order], [chosen, pair, about, text], **SILENT)
    gr.on(
        [chosen.input, scale.release, strength.release],
        perturb,
        [sheet, chosen, scale, strength],
        [status, pair, about, text],
        trigger_mode="always_last",
        **lane(server),
    )
    order.input(
        lambda sheet, order: gr.skip() if sheet is None else _gallery(sheet, order),
        [sheet, order],
        grid,
        **SILENT,
    )
    gr.on([tab.select, asking.model.input], list_layers, asking.model, [status, layers], **lane(server))


def short(paths: Iterable[str]) -> dict[str, str]:
    """Return short names of modules by their paths: without the denoiser, and without an ending of all."""
    parts = {path: path.split(".")[1:] for path in paths}
    end = 0
    while (
        all(len(each) > end + 2 for each in parts.values())
        and len({p[-1 - end] for p in parts.values()}) == 1
    ):
        end += 1
    return {path: ".".join(each[: len(each) - end]) for path, each in parts.items()}


def middle(layers: Mapping[str, int]) -> list[str]:
    """Return layers around the middle one, as many as have `FIRST` heads together."""
    paths, found = list(layers), []
    for at in sorted(range(len(paths)), key=lambda at: abs(at - len(paths) // 2)):
        if sum(layers[path] for path in found) < FIRST:
            found.append(paths[at])
    return [path for path in paths if path in found]


def label(head: Drawn) -> str:
    """Return the name of a head in lists."""
    return f"head {head.head} of {head.layer}"


def _slider(name: str, value: float) -> gr.Slider:
    facts = settable(SoftPAG)[name].metadata
    low, high = facts["low"], facts["high"]
    return gr.Slider(
        low,
        high,
        value=value,
        step=(high - low) / 100,
        label=f"{name} ({facts['unit']})",
        info=facts["help"] if name == "scale" else "how much the head sees only itself",
        elem_id=f"heads-{name}",
    )


def _results(sheet: Sheet, order: str) -> list[Any]:
    """Return what all outputs but the line of progress show for a new sheet."""
    labels = [label(head) for head in sheet.heads if head.path]
    return [
        gr.update(visible=True),
        sheet,
        _gallery(sheet, order),
        gr.update(choices=labels, value=[]),
        (str(sheet.plain), str(sheet.plain)),
        f"<p>Seed {sheet.asked.seed}, plain: {escape(sheet.verdict)}</p>",
        "",
    ]


def _gallery(sheet: Sheet, order: str) -> list[tuple[str, str]]:
    names = short({head.layer: None for head in sheet.heads})
    pictures = [(str(sheet.plain), f"plain, {sheet.verdict}" if sheet.verdict else "plain")]
    for head in sheet.ordered(order == ORDERS[1]):
        words = [f"head {head.head} of {names[head.layer]}"]
        words += [] if head.change is None else [f"change {head.change:.1f}"]
        words += [head.verdict] if head.verdict else []
        pictures.append((str(head.path or sheet.plain), ", ".join(words)))
    return pictures


def _chosen(sheet: Sheet | None, labels: Sequence[str]) -> list[Drawn]:
    """Return the heads that labels name. Raises `MethodError` for others."""
    if sheet is None:
        return []
    known = {label(head): head for head in sheet.heads}
    if unknown := [name for name in labels or [] if name not in known]:
        raise MethodError(f"the sheet has no {unknown[0][:80]!r}; choose one of the list.")
    return [known[name] for name in labels or []]


def _numbers(heads: Sequence[Drawn]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for head in heads:
        found.setdefault(head.layer, []).append(head.head)
    return found


def _shown(sheet: Sheet, drawn: Drawn, heads: Sequence[Drawn]) -> list[Any]:
    """Return the two pictures, a sentence on both, and the heads as JSON."""
    words = f"Plain: {sheet.verdict or 'no verdict'}. Perturbed: {drawn.verdict or 'no verdict'}."
    return [
        gr.skip() if drawn.path is None else (str(sheet.plain), str(drawn.path)),
        f"<p>{escape(words)}</p>",
        json.dumps(_numbers(heads)),
    ]
