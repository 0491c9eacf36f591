"""The tab Search: many starts of a prompt, scored while they run, of which the best picture is kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
from PIL import Image

from ..settings import samplers
from ..settings.registry import METHODS, SAMPLERS
from ..zoo.catalogue import NOISES
from . import controls, facts, numbers, search_chart
from .bar import bar
from .engine import Done
from .line import Waiting
from .search_asked import OTHERS, SHARED, USUAL, SearchAsked
from .search_run import Found, search
from .search_watch import Look
from .server import LANE, Server, toast

LABEL = "Search"
PROMPT = "a red circle and a blue square"
NONE = "nothing"
OWN = "the model's own"
CALL = ("num_inference_steps", "guidance_scale", "height", "width")


@dataclass(frozen=True, slots=True)
class Form:
    """The controls of the tab in the order in which an event gives their values."""

    own: Mapping[str, gr.components.Component]
    fields: Mapping[str, Sequence[controls.Field]]  # by sampler

    @property
    def inputs(self) -> list[gr.components.Component]:
        """All controls."""
        return [*self.own.values(), *(f.control for fields in self.fields.values() for f in fields)]

    def read(self, values: Sequence[Any]) -> SearchAsked:
        """Return the search that values ask for. Raises `ValueError` in one sentence."""
        own = dict(zip(self.own, values, strict=False))
        rest, tables = list(values[len(self.own) :]), {}
        for name, fields in self.fields.items():
            tables[name] = controls.table(fields, rest[: len(fields)])
            del rest[: len(fields)]
        chain = [own["sampler"], *([] if own["refine"] == NONE else [own["refine"]])]
        settings = {name: dict(tables.get(name, {})) for name in chain}
        if own["network"] and "npnet" in settings:
            settings["npnet"]["model"] = own["network"]
        if (count := numbers.read(own["count"], "candidates or rounds")) is not None:
            first = next((n for n in chain if samplers.main_count(samplers.named(n).cls)), chain[0])
            most = samplers.main_count(samplers.named(first).cls)
            if most is None:
                raise ValueError(f"{first} has no number of candidates or rounds; leave that field empty")
            settings[first][most] = count
        call = {name: numbers.read(own[name], name) for name in CALL}
        return SearchAsked.of(
            {
                **{key: own[key] for key in ("prompt", "negative_prompt", "model", "seed")},
                "methods": own["methods"],
                "call": {name: value for name, value in call.items() if value is not None},
                "sampler": "+".join(chain),
                "settings": settings,
                "rewards": own["rewards"],
                "budget": own["budget"],
                "seconds": numbers.read(own["seconds"], "time"),
            }
        )


def build(server: Server) -> None:
    """Make the tab. Call it inside its `gr.Tab`."""
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            form, groups = _form(server)
            with gr.Row():
                go = gr.Button("Search", variant="primary", elem_id="search-go", elem_classes="go")
                stop = gr.Button("Cancel", variant="stop", elem_id="search-cancel")
        with gr.Column(scale=3, min_width=300):
            state = gr.HTML(bar(0, "Nothing runs."), elem_id="search-state")
            best = gr.Image(
                label="Best picture so far",
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
            text = " ".join(str(error).split())
            yield [bar(0, text), *[gr.skip()] * (len(outputs) - 1)]
            raise gr.Error(toast(error), print_exception=False) from None

    gr.on(
        [go.click, form.own["prompt"].submit],
        run,
        form.inputs,
        outputs,
        concurrency_id=LANE,
        concurrency_limit=server.workers,
        api_visibility="private",
        show_progress="hidden",
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
        queue=False,
        api_visibility="private",
        show_progress="hidden",
    )


def _form(server: Server) -> tuple[Form, list[Any]]:
    """Make the controls; return them, and what changes with the sampler."""
    own: dict[str, gr.components.Component] = {}
    names = server.models.names()
    own["prompt"] = gr.Textbox(label="Prompt", value=PROMPT, lines=2, elem_id="search-prompt")
    with gr.Row():
        own["model"] = gr.Dropdown(
            names,
            value="shapes-sd" if "shapes-sd" in names else names[0],
            label="Model",
            allow_custom_value=server.models.hub,
            min_width=120,
            elem_id="search-model",
        )
        own["seed"] = gr.Number(
            label="Seed",
            value=0,
            precision=0,
            minimum=-1,
            min_width=120,
            info="-1 draws one",
            elem_id="search-seed",
        )
    with gr.Row():
        own["sampler"] = gr.Dropdown(
            list(SAMPLERS), value="best-of-n", label="Search", min_width=120, elem_id="search-sampler"
        )
        refining = [name for name in SAMPLERS if not samplers.transforms(samplers.named(name).cls)]
        own["refine"] = gr.Dropdown(
            [NONE, *refining],
            value=NONE,
            label="Then from its winner",
            min_width=120,
            elem_id="search-refine",
        )
    about = gr.HTML(facts.about(samplers.named("best-of-n").cls), padding=False, elem_id="search-about")
    own["budget"] = gr.Slider(
        10,
        1000,
        value=USUAL,
        step=10,
        label="Budget (evaluations)",
        info="of the denoiser, at most; one propagated back counts three times",
        elem_id="search-budget",
    )
    groups: list[Any] = [about]
    fields = {}
    for name in SAMPLERS:
        cls = samplers.named(name).cls
        with gr.Accordion(f"Settings of {name}", open=False, visible=name == "best-of-n") as group:
            if name == "npnet":
                own["network"] = gr.Dropdown(
                    list(NOISES), value=NOISES[0], label="network", elem_id="search-npnet-network"
                )
            left_out = (*SHARED, "model", samplers.main_count(cls) or "")
            fields[name] = controls.of_class(name, cls, {}, left_out, "search")
            if not fields[name]:
                gr.Markdown("It has no settings but the budget.")
        groups.append(group)
    with gr.Accordion("More", open=False):
        with gr.Row():
            count = "as many as the budget pays for"
            own["count"] = numbers.field("Candidates or rounds", count, "search-count")
            own["seconds"] = numbers.field("Time (seconds), at most", "no limit", "search-seconds")
        own["rewards"] = gr.Dropdown(
            ["shapes-clip", *OTHERS],
            value=[],
            multiselect=True,
            label="Rewards",
            info="score the pictures; empty: shapes-clip for models of shapes world",
            elem_id="search-rewards",
        )
        own["methods"] = gr.CheckboxGroup(
            list(METHODS),
            label="Methods",
            info="with the settings that are known for the model",
            elem_id="search-methods",
        )
        own["negative_prompt"] = gr.Textbox(label="Negative prompt", elem_id="search-negative")
        with gr.Row():
            own["num_inference_steps"] = numbers.field("Steps", OWN, "search-steps")
            own["guidance_scale"] = numbers.field("Guidance", OWN, "search-guidance")
        with gr.Row():
            own["height"] = numbers.field("Height (px)", OWN, "search-height")
            own["width"] = numbers.field("Width (px)", OWN, "search-width")
    return Form(own, fields), groups


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
