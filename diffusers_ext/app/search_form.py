"""The form of the tab Search: what a visitor fills in, as a search to check."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from ..settings import samplers
from ..settings.registry import SAMPLERS
from ..zoo.catalogue import NOISES
from . import common, controls, facts, numbers
from .models import Models
from .search_asked import MOST_S, OTHERS, SHARED, USUAL, SearchAsked


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
        chain = [own["sampler"], *([] if own["refine"] == common.NONE else [own["refine"]])]
        settings = {name: dict(tables.get(name, {})) for name in chain}
        if own["network"] and "npnet" in settings:
            settings["npnet"]["model"] = own["network"]
        if (count := numbers.read(own["count"], "candidates or rounds")) is not None:
            first = next((n for n in chain if samplers.main_count(samplers.named(n).cls)), chain[0])
            most = samplers.main_count(samplers.named(first).cls)
            if most is None:
                raise ValueError(f"{first} has no number of candidates or rounds; leave that field empty")
            settings[first][most] = count
        return SearchAsked.of(
            {
                **{key: own[key] for key in ("prompt", "negative_prompt", "model", "seed")},
                "methods": own["methods"],
                "call": common.call(own),
                "sampler": "+".join(chain),
                "settings": settings,
                "rewards": own["rewards"],
                "budget": own["budget"],
                "seconds": numbers.read(own["seconds"], "time"),
            }
        )


def build(models: Models) -> tuple[Form, list[Any]]:
    """Make the controls; return them, and what changes with the sampler."""
    own: dict[str, gr.components.Component] = {}
    own["prompt"] = gr.Textbox(label="Prompt", value=common.PROMPT, lines=2, elem_id="search-prompt")
    with gr.Row():
        own["model"] = common.model(models, "search-model", min_width=200)
        own["seed"] = gr.Textbox(
            label="Seed", value="0", max_lines=1, min_width=120, info="-1 draws one", elem_id="search-seed"
        )
    with gr.Row():
        own["sampler"] = gr.Dropdown(
            list(SAMPLERS), value="best-of-n", label="Search", min_width=120, elem_id="search-sampler"
        )
        refining = [name for name in SAMPLERS if not samplers.transforms(samplers.named(name).cls)]
        own["refine"] = gr.Dropdown(
            [common.NONE, *refining],
            value=common.NONE,
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
            own["seconds"] = numbers.field("Time (seconds), at most", f"{MOST_S:g}", "search-seconds")
        own["rewards"] = gr.Dropdown(
            ["shapes-clip", *OTHERS],
            value=[],
            multiselect=True,
            label="Rewards",
            info="score the pictures; empty: shapes-clip for models of shapes world",
            elem_id="search-rewards",
        )
        own["methods"] = common.methods("search")
        own |= common.of_call("search")
    return Form(own, fields), groups
