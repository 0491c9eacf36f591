"""The section with attention heads: a picture for each, and those that are clicked perturbed together."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr

from ..explore.head_pictures import SCALE
from ..processors.softpag import SoftPAG
from ..settings.assign import settable
from . import heads_make
from .engine import Control, Done, Place
from .explore_jobs import Asking, Work, buttons, running
from .heads_make import Drawn, Layers, Sheet, label, numbers
from .server import QUIET, SILENT, Server, said

LABEL = "Heads"
ABOUT = (
    "What does each attention head do? Every picture is guided away from a pass in which one head sees only "
    "itself. Click on one, and move the sliders."
)
FIRST = 6  # heads that are drawn at first, at least
ORDERS = ("as in the model", "largest change first")


@dataclass(frozen=True)
class Results:
    """The outputs of the section; `box` holds them, and is shown with the first sheet."""

    box: gr.Column
    order: gr.Radio
    grid: gr.Gallery
    chosen: gr.Dropdown
    pair: gr.ImageSlider
    about: gr.HTML
    text: gr.Textbox

    @property
    def of_choice(self) -> list[gr.components.Component]:
        """The outputs that show the heads that are perturbed."""
        return [self.pair, self.about, self.text]


def build(server: Server, tab: gr.Tab) -> None:
    """Make the section, which lists the layers of its model when `tab` is opened. Call it inside that tab."""
    layers_of, sheet = Layers(), gr.State(time_to_live=24 * 3600)
    gr.Markdown(ABOUT)
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
        with gr.Column(scale=3, min_width=320):
            results = _results()

    def list_layers(request: gr.Request, model: str) -> Iterator[list[Any]]:
        known = layers_of.known(model)
        if known is None:
            for words, event in running(
                server, request, lambda: lambda _, place: layers_of.find(place, model)
            ):
                known = event.result if isinstance(event, Done) else None
                yield [words, gr.skip()]
        if known is not None:
            names = short(known)
            choices = [(f"{names[path]} ({heads} heads)", path) for path, heads in known.items()]
            yield ["ready", gr.update(choices=choices, value=middle(known))]

    def run(request: gr.Request, *values: Any) -> Iterator[list[Any]]:
        def prepare() -> Work:
            *of_prompt, names, scale, strength, _ = values
            asked, folder = asking.asked(*of_prompt), server.folder.fresh()
            settings = names or [], scale, strength, folder
            return lambda control, place: heads_make.draw_sheet(control, place, asked, *settings)

        for words, event in running(server, request, prepare):
            if isinstance(event, Done):
                yield [words, *_new(event.result, values[-1], names_of(event.result))]
            else:
                yield [words, *[gr.skip()] * 7]

    def click(event: gr.SelectData, sheet: Sheet | None, order: str) -> list[Any]:
        if sheet is None or not event.index:  # the first is plain
            return [gr.skip()] * 4
        head = sheet.ordered(order == ORDERS[1])[event.index - 1]
        return [[label(head)], *_shown(sheet, head, [head])]

    def perturb(
        request: gr.Request, sheet: Sheet | None, labels: Sequence[str], scale: float, strength: float
    ) -> Iterator[list[Any]]:
        if sheet is None or not labels:
            yield [gr.skip()] * 4
            return
        with said():
            heads = sheet.named(labels)
        if len(heads) == 1 and (scale, strength) == (sheet.scale, sheet.strength):
            yield ["done", *_shown(sheet, heads[0], heads)]
            return

        def work(control: Control, place: Place) -> Drawn:
            return heads_make.perturb(control, place, sheet, numbers(heads), scale, strength)

        for words, event in running(server, request, lambda: work):
            if isinstance(event, Done):
                yield [words, *_shown(sheet, event.result, heads)]
            else:
                yield [words, *[gr.skip()] * 3]

    def reorder(sheet: Sheet | None, order: str) -> Any:
        return gr.skip() if sheet is None else _gallery(sheet, order, names_of(sheet))

    def names_of(sheet: Sheet) -> Mapping[str, str]:
        """Return the names of the list of layers."""
        return short(layers_of.known(sheet.asked.model) or {head.layer: 0 for head in sheet.heads})

    outputs = [status, results.box, sheet, results.grid, results.chosen, *results.of_choice]
    inputs = [*asking.all, layers, scale, strength, results.order]
    gr.on([go.click, asking.prompt.submit], run, inputs, outputs, **server.lane, **QUIET)
    results.grid.select(click, [sheet, results.order], [results.chosen, *results.of_choice], **SILENT)
    gr.on(
        [results.chosen.input, scale.release, strength.release],
        perturb,
        [sheet, results.chosen, scale, strength],
        [status, *results.of_choice],
        trigger_mode="always_last",
        **server.lane,
        **QUIET,
    )
    results.order.input(reorder, [sheet, results.order], results.grid, **SILENT)
    gr.on(
        [tab.select, asking.model.input], list_layers, asking.model, [status, layers], **server.lane, **QUIET
    )


def _results() -> Results:
    picture = {"format": "png", "interactive": False, "elem_classes": "sharp"}
    with gr.Column(visible=False) as box:
        order = gr.Radio(list(ORDERS), value=ORDERS[0], label="Order", elem_id="heads-order")
        grid = gr.Gallery(
            label="A picture for each head; the first is plain",
            columns=4,
            height="auto",
            object_fit="contain",
            allow_preview=False,
            buttons=["download_all"],
            elem_id="heads-grid",
            **picture,
        )
        chosen = gr.Dropdown(
            [],
            multiselect=True,
            label="Heads that are perturbed together",
            info="A click on a picture chooses its head; add others here.",
            elem_id="heads-chosen",
        )
        pair = gr.ImageSlider(
            label="plain | heads perturbed", type="filepath", height=384, elem_id="heads-pair", **picture
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
    return Results(box, order, grid, chosen, pair, about, text)


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


def _new(sheet: Sheet, order: str, names: Mapping[str, str]) -> list[Any]:
    """Return what all outputs but the line of progress show for a new sheet."""
    return [
        gr.update(visible=True),
        sheet,
        _gallery(sheet, order, names),
        gr.update(choices=[label(head) for head in sheet.heads], value=[]),
        (str(sheet.plain), str(sheet.plain)),
        f"<p>Seed {sheet.asked.seed}, plain: {escape(sheet.verdict or 'no verdict')}</p>",
        "",
    ]


def _gallery(sheet: Sheet, order: str, names: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the pictures with short captions; the reason of a verdict is said of the head that is chosen."""

    def caption(first: str, change: float | None, verdict: str, *more: str) -> str:
        changed = () if change is None else (f"change {change:.1f}",)
        return ", ".join(filter(None, (first, *changed, verdict.partition(":")[0], *more)))

    pictures = [(str(sheet.plain), caption("plain", None, sheet.verdict))]
    for head in sheet.ordered(order == ORDERS[1]):
        words = caption(f"head {head.head}", head.change, head.verdict, names[head.layer])
        pictures.append((str(head.path or sheet.plain), words))
    return pictures


def _shown(sheet: Sheet, drawn: Drawn, heads: Sequence[Drawn]) -> list[Any]:
    """Return the two pictures, a sentence on both, and the heads as JSON."""
    words = f"Plain: {sheet.verdict or 'no verdict'}. Perturbed: {drawn.verdict or 'no verdict'}."
    return [
        gr.skip() if drawn.path is None else (str(sheet.plain), str(drawn.path)),
        f"<p>{escape(words)}</p>",
        json.dumps(numbers(heads)),
    ]
