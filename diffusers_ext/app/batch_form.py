"""The form of the tab Batch: what a visitor fills in, as the tables of a job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from ..settings.registry import SAMPLERS
from . import common
from .batch_uploads import read
from .server import Server

ENDINGS = [".toml", ".txt", ".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".png", ".jpg", ".jpeg", ".webp"]
PROMPTS = "a red circle and a blue square\na yellow triangle"


def build(server: Server) -> dict[str, gr.components.Component]:
    """Make the controls, by name. Call it inside a `gr.Blocks`."""
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
        value=PROMPTS,
        lines=4,
        elem_id="batch-prompts",
    )
    with gr.Row():
        own["model"] = common.model(server.models, "batch-model", min_width=200)
        own["seeds"] = gr.Textbox(
            label="Seeds",
            value="0-3",
            info="of each prompt: 7, 0-3 or 1, 5",
            min_width=120,
            elem_id="batch-seeds",
        )
    with gr.Accordion("More", open=False):
        own["methods"] = common.methods("batch")
        own["sampler"] = gr.Dropdown(
            [common.NONE, *SAMPLERS],
            value=common.NONE,
            label="Search",
            info="for each picture",
            elem_id="batch-sampler",
        )
        own["budget"] = gr.Slider(
            10,
            1000,
            value=240,
            step=10,
            label="Budget (evaluations)",
            info="of a search",
            elem_id="batch-budget",
        )
        own |= common.of_call("batch")
    return own


def asked(own: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Path], str]:
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
    data["prompts"]["seeds"] = seeds(own["seeds"] or "0")
    data["model"] = {"name": own["model"]}
    data["method"] = [{"name": name} for name in own["methods"]]
    data["call"] = common.call(own)
    if own["negative_prompt"]:
        data["call"]["negative_prompt"] = own["negative_prompt"]
    if own["sampler"] != common.NONE:
        data["sampler"] = {"name": own["sampler"], "budget": own["budget"] or 240}
    return data, files, title or texts[0][:60]


def seeds(text: str) -> Any:
    """Return seeds as a job file has them: a number, a list, or a range as text."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    numbers = [int(part) if part.isascii() and part.isdecimal() else part for part in parts]
    return numbers[0] if len(numbers) == 1 else numbers
