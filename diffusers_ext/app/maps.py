"""The section with maps of words: where in the picture a model attends to each word of its prompt."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Any

import gradio as gr

from ..outputs.files import write_json
from ..outputs.record import write_image
from . import maps_make
from .engine import Done
from .explore_jobs import Asking, Work, buttons, running
from .maps_kept import Kept
from .maps_make import Mapped
from .server import QUIET, SILENT, Server, said
from .watch import Step

LABEL = "Words"
ABOUT = (
    "Where does the model look for each word? Bright places pay most attention to it. Move the slider to see "
    "when, and choose a layer to see where in the network."
)
EVERY_LAYER = ("all layers (mean)", "")


def build(server: Server) -> None:
    """Make the section. Call it inside its tab."""
    gr.Markdown(ABOUT)
    kept = gr.State(time_to_live=24 * 3600)
    with gr.Row():
        with gr.Column(scale=2, min_width=320):
            asking = Asking.of(server, "maps")
            words = gr.Textbox(
                label="Words",
                placeholder="red circle, square",
                info="words of the prompt, with commas between them; empty: all that mean something",
                elem_id="maps-words",
            )
            go, status = buttons(server, "maps", "Map words")
        with gr.Column(scale=3, min_width=320):
            with gr.Row():
                plain = _image("The picture", "plain")
                picture = _image("Attention to the word", "picture")
            about = gr.HTML(elem_id="maps-about")
            word = gr.Radio([], label="Word", visible=False, elem_id="maps-word")
            with gr.Row():
                step = gr.Slider(
                    0,
                    1,
                    value=0,
                    step=1,
                    label="Step",
                    info="0 is the mean over all steps",
                    visible=False,
                    elem_id="maps-step",
                )
                layer = gr.Dropdown(
                    [EVERY_LAYER], value="", label="Layer", visible=False, min_width=200, elem_id="maps-layer"
                )
            with gr.Accordion("Files", open=False, visible=False) as box:
                files = gr.File(
                    label="The picture, all maps and their numbers",
                    file_count="multiple",
                    interactive=False,
                    elem_id="maps-files",
                )
    outputs = [status, plain, kept, word, step, layer, picture, about, files, box]

    def run(request: gr.Request, *values: Any) -> Iterator[list[Any]]:
        def prepare() -> Work:
            *of_prompt, words = values
            asked, folder = asking.asked(*of_prompt), server.folder.fresh()
            return lambda control, place: maps_make.make(control, place, asked, words, folder)

        for text, event in running(server, request, prepare):
            if isinstance(event, Done):
                yield [text, *_results(event.result)]
            else:
                shown = event.preview if isinstance(event, Step) and event.preview else gr.skip()
                yield [text, shown, *[gr.skip()] * 8]

    def show(kept: Kept | None, word: str, step: float, layer: str) -> tuple[Any, Any]:
        if kept is None:
            return gr.skip(), gr.skip()
        with said():
            drawn, text = maps_make.draw(kept, word, int(step), layer or None)
        return drawn, _about(text)

    inputs = [*asking.all, words]
    gr.on([go.click, asking.prompt.submit, words.submit], run, inputs, outputs, **server.lane, **QUIET)
    gr.on(
        [word.input, step.input, layer.input],
        show,
        [kept, word, step, layer],
        [picture, about],
        trigger_mode="always_last",
        **SILENT,
    )


def _results(mapped: Mapped) -> list[Any]:
    """Return what all outputs but the line of progress show for new maps."""
    kept, first = mapped.kept, mapped.kept.labels[0]
    drawn, text = maps_make.draw(kept, first, 0, None)
    return [
        maps_make.plain(kept),
        kept,
        gr.update(choices=kept.labels, value=first, visible=True),
        gr.update(value=0, maximum=len(kept.steps), visible=len(kept.steps) > 1),
        gr.update(choices=[EVERY_LAYER, *kept.layers], value="", visible=len(kept.layers) > 1),
        drawn,
        _about(text, mapped),
        files(mapped),
        gr.update(visible=True),
    ]


def _image(label: str, name: str) -> gr.Image:
    return gr.Image(
        label=label,
        format="png",
        type="filepath",
        interactive=False,
        min_width=240,
        elem_classes="sharp",
        buttons=["download", "fullscreen"],
        alt_text=label,
        elem_id=f"maps-{name}",
    )


def files(mapped: Mapped) -> list[str]:
    """Write the picture with its record, and the facts of its maps, beside the maps; return the paths."""
    from ..explore.map_files import facts, words_sheet
    from ..sampling.clip import Clip

    found, folder = mapped.kept.read(), mapped.kept.folder
    paths = [folder / "maps.png", folder / "maps.json"]
    if not isinstance(found.image, Clip):
        paths.insert(0, folder / "picture.png")
        write_image(paths[0], found.image, mapped.record)
    write_image(folder / "maps.png", words_sheet(found))
    write_json(folder / "maps.json", {**mapped.record, **facts(found)})
    return [str(path) for path in paths]


def _about(text: str, mapped: Mapped | None = None) -> str:
    lines = [text]
    if mapped is not None:
        correct = mapped.verdict.correct
        verdict = {True: "right: ", False: "wrong: ", None: ""}[correct] + mapped.verdict.reason
        lines.append(f"Seed {mapped.kept.seed}; {verdict}")
    return "".join(f"<p>{escape(line)}</p>" for line in lines)
