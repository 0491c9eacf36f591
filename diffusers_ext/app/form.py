"""Hold the inputs of the tab Compare: fill them for a model or from settings, and read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from ..models.checkpoint import Checkpoint
from ..settings.assign import convert
from ..settings.methods import method_class
from . import common, controls, facts, takes
from .asked import NUMBERS, Asked
from .engine import known_settings
from .models import FIRST, Models
from .server import SILENT, said

TAB = "compare"
METHOD = "softpag"  # tuned for each model of the zoo, and without measured harm in any
PICTURES = (common.PROMPT, "two green stars", "a yellow triangle above a red square")
CLIPS = ("a red circle moves left", "a blue star")
HELP = {
    "num_inference_steps": ("Steps", "More take longer."),
    "guidance_scale": ("Guidance scale", "How closely the prompt is followed; 0 or 1 is off."),
    "true_cfg_scale": ("True guidance scale", "For models that embed a guidance scale, such as FLUX.1."),
    "height": ("Height (px)", "Sizes that the model cannot make are refused, with the nearest."),
    "width": ("Width (px)", ""),
    "num_frames": ("Frames", "Of a clip."),
}


@dataclass
class Form:
    """The inputs of a request. Build it inside `gr.Blocks`, in the order of the page."""

    models: Models
    fields: dict[str, list[controls.Field]] = field(default_factory=dict)
    numbers: dict[str, gr.Textbox] = field(default_factory=dict)
    groups: dict[str, gr.Accordion] = field(default_factory=dict)

    def build(self) -> None:
        """Make the inputs, set for the first model."""
        checkpoint = self.models.resolve(FIRST)
        known, refused = known_settings(checkpoint), takes.refusals(checkpoint)
        # The model whose settings the controls show. The browser keeps it, so that it changes with them.
        self.filled = gr.Textbox(FIRST, visible=False)
        self.prompt = gr.Textbox(label="Prompt", value=PICTURES[0], lines=2, max_lines=6, elem_id="prompt")
        self.examples = gr.Dataset(
            components=[self.prompt],
            samples=_samples(checkpoint),
            label="Prompts to start with",
            elem_id="examples",
        )
        with gr.Row():
            self.go = gr.Button("Generate", variant="primary", elem_id="generate", elem_classes="go")
            self.stop = gr.Button("Cancel", variant="stop", elem_id="cancel")
        self.model = common.model(
            self.models,
            "model",
            info="Or write the id of a model of the Hub." if self.models.hub else None,
        )
        self.methods = gr.CheckboxGroup(
            _choices(refused),
            value=[METHOD],
            label="Methods",
            info="None: the plain picture alone.",
            elem_id="methods",
        )
        self.refused = gr.HTML(facts.unsuited(refused), elem_id="refused", padding=False)
        for name in takes.offered():
            shown = name == METHOD
            with gr.Accordion(
                f"Settings of {name}", open=False, visible=shown, elem_id=f"settings-{name}"
            ) as group:
                gr.HTML(facts.about(method_class(name)), padding=False)
                self.fields[name] = controls.of_method(name, known.get(name, {}), tab=TAB)
            self.groups[name] = group
        with gr.Row():
            self.seed = gr.Textbox(
                label="Seed",
                value="0",
                max_lines=1,
                info="Empty or -1 draws one.",
                elem_id="seed",
                scale=3,
                min_width=140,
            )
            with gr.Column(scale=1, min_width=110):
                self.draw = gr.Button("Draw one", elem_id="draw-seed", size="sm")
                self.again = gr.Button("Last one", elem_id="last-seed", size="sm")
        with gr.Accordion("Advanced: size, steps, guidance, negative prompt", open=False, elem_id="advanced"):
            self.negative = gr.Textbox(
                label="Negative prompt",
                info="What not to draw, for models that read one.",
                max_lines=3,
                elem_id="negative",
            )
            with gr.Row():
                for name, (label, info) in HELP.items():
                    shown = _settable(name, checkpoint)
                    self.numbers[name] = gr.Textbox(
                        label=label,
                        info=info or None,
                        max_lines=1,
                        placeholder=_usual(name, checkpoint),
                        visible=shown,
                        min_width=140,
                        elem_id=name.replace("_", "-"),
                    )

    @property
    def inputs(self) -> list[gr.components.Component]:
        """The components in the order in which `read` takes their values."""
        every = [each.control for own in self.fields.values() for each in own]
        text = [self.prompt, self.negative, self.seed, self.filled]
        return [*text, self.model, self.methods, *self.numbers.values(), *every]

    def wire(self) -> None:
        """Let the model and the methods that are chosen change the rest of the form."""
        own = [*self.inputs, self.examples, self.refused, *self.groups.values()]
        self.model.input(self._suited, [self.model, self.prompt, self.methods], own, **SILENT)
        self.methods.change(self.open, self.methods, list(self.groups.values()), **SILENT)
        self.examples.click(lambda sample: sample[0], self.examples, self.prompt, **SILENT)

    def _suited(self, model: str, prompt: str, names: list[str]) -> dict[Any, Any]:
        with said():
            return self.suit(model, prompt, names)

    def read(self, values: Sequence[Any]) -> Asked:
        """Return the request that the inputs hold; raises `ValueError` in one sentence."""
        prompt, negative, seed, filled, model, names, *rest = values
        numbers = {name: _number(name, text) for name, text in zip(self.numbers, rest, strict=False)}
        known = known_settings(self.models.resolve(filled))
        tables, at = [], len(numbers)
        for name, fields in self.fields.items():
            own, at = rest[at : at + len(fields)], at + len(fields)
            if name in names:
                tables.append({"name": name, **controls.table(fields, own, known.get(name, {}))})
        data = {"prompt": prompt, "negative_prompt": negative, "model": model, "seed": seed}
        return Asked.of(data | {"methods": tables, "call": numbers})

    def suit(self, model: str, prompt: str, names: Sequence[str]) -> dict[Any, Any]:
        """Return the updates for another model: its settings, its sizes, and the methods that it takes."""
        checkpoint = self.models.resolve(model or "")
        refused = takes.refusals(checkpoint)
        kept = [name for name in names if name not in refused]
        samples = _samples(checkpoint)
        example = prompt in (*PICTURES, *CLIPS) and [prompt] not in samples
        return {
            **self._settings(known_settings(checkpoint)),
            **self._of_model(checkpoint, refused),
            self.filled: model,
            self.methods: gr.update(choices=_choices(refused), value=kept),
            self.prompt: samples[0][0] if example and samples else gr.skip(),
            **self.open(kept),
        }

    def fill(self, asked: Asked) -> dict[Any, Any]:
        """Return the updates that show a request; raises `ValueError` for one that cannot be built."""
        checkpoint = self.models.resolve(asked.model)
        known = dict(known_settings(checkpoint))
        asked.build(known)
        refused = takes.refusals(checkpoint)
        names = [table["name"] for table in asked.methods]
        for name in names:
            if name not in self.fields:
                raise ValueError(f"{name} draws several prompts in one call, so Compare does not offer it.")
            if name in refused:
                raise ValueError(refused[name])
        for table in asked.methods:
            known[table["name"]] = {**known.get(table["name"], {}), **table}
        call = dict(asked.call)
        return {
            **self._settings(known),
            **self._of_model(checkpoint, refused),
            self.prompt: asked.prompt,
            self.negative: call.get("negative_prompt", ""),
            self.model: asked.model,
            self.filled: asked.model,
            self.seed: "" if asked.seed is None else str(asked.seed),
            self.methods: gr.update(choices=_choices(refused), value=names),
            **{
                number: gr.update(
                    value=_shown(call.get(name)),
                    placeholder=_usual(name, checkpoint),
                    visible=_settable(name, checkpoint) or name in call,
                )
                for name, number in self.numbers.items()
            },
            **self.open(names),
        }

    def open(self, names: Sequence[str]) -> dict[Any, Any]:
        """Return the updates that show the settings of some methods."""
        return {group: gr.update(visible=name in names) for name, group in self.groups.items()}

    def _settings(self, known: Mapping[str, Mapping[str, Any]]) -> dict[Any, Any]:
        pairs = ((each, known.get(name, {})) for name, own in self.fields.items() for each in own)
        return {each.control: gr.update(value=controls.shown(each, each.usual(own))) for each, own in pairs}

    def _of_model(self, checkpoint: Checkpoint, refused: Mapping[str, str]) -> dict[Any, Any]:
        return {
            self.examples: gr.Dataset(samples=_samples(checkpoint)),
            self.refused: facts.unsuited(refused),
            **{
                number: gr.update(
                    value="", placeholder=_usual(name, checkpoint), visible=_settable(name, checkpoint)
                )
                for name, number in self.numbers.items()
            },
        }


def _number(name: str, text: str | None) -> Any:
    return convert(text, NUMBERS[name], name) if text and text.strip() else None


def _shown(value: Any) -> str:
    return "" if value is None else str(value)


def _choices(refused: Mapping[str, str]) -> list[str]:
    return [name for name in takes.offered() if name not in refused]


def _samples(checkpoint: Checkpoint) -> list[list[str]]:
    return [[text] for text in (CLIPS if "num_frames" in checkpoint.call else PICTURES)]


def _usual(name: str, checkpoint: Checkpoint) -> str:
    value = checkpoint.call.get(name)
    return "the model's own" if value is None else f"{value:g}"


def _settable(name: str, checkpoint: Checkpoint) -> bool:
    """Return whether to show a number; of models of shapes world it is known which ones they read."""
    return name in checkpoint.call if checkpoint.of_world else name in NUMBERS
