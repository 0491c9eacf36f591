"""Hold the outputs of the tab Compare: pictures while they are made, what is known of them, and snippets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from . import facts, share, snippets
from .asked import Asked
from .bar import bar
from .engine import known_settings
from .models import Models
from .pictures import Made
from .watch import Step

HEIGHT = 384  # px of the pictures on the page
STILL = (".png", ".gif")


@dataclass
class Results:
    """The outputs of a request. Build them inside `gr.Blocks`."""

    models: Models
    dtype: str | None = None

    def build(self) -> None:
        """Make the outputs, empty."""
        self.status = gr.HTML(bar(0, "Nothing runs."), padding=False, elem_id="status")
        own = {"type": "filepath", "format": "png", "height": HEIGHT, "interactive": False}
        self.one = gr.Image(
            label=facts.PLAIN,
            alt_text="The picture, as far as it is drawn",
            elem_id="picture",
            elem_classes="sharp",
            **own,
        )
        self.slider = gr.ImageSlider(
            label=f"{facts.PLAIN} | {facts.CHANGED}",
            visible=False,
            max_height=HEIGHT,
            elem_id="slider",
            elem_classes="sharp",
            **own,
        )
        with gr.Row(visible=False) as self.clips:
            clip = {"interactive": False, "autoplay": True, "loop": True, "height": HEIGHT, "min_width": 150}
            self.videos = [
                gr.Video(label=label, elem_id=f"clip-{number}", **clip)
                for number, label in enumerate((facts.PLAIN, facts.CHANGED))
            ]
        self.facts = gr.HTML(elem_id="verdict", padding=False)
        self.gallery = gr.Gallery(
            label="Files, with their settings inside",
            columns=2,
            height="auto",
            object_fit="contain",
            format="png",
            visible=False,
            interactive=False,
            elem_id="pictures",
            elem_classes="sharp",
        )
        with gr.Accordion("Make it again: command line, Python, job file, link", open=False, elem_id="again"):
            copy = {"buttons": ["copy"], "interactive": False, "elem_classes": "mono", "max_lines": 30}
            self.command = gr.Textbox(label="Command line", lines=2, elem_id="command", **copy)
            self.python = gr.Textbox(label="Python", lines=8, elem_id="python", **copy)
            self.job = gr.Textbox(label="Job file", lines=8, elem_id="job", **copy)
            self.link = gr.Textbox(label="Link to these settings", lines=1, elem_id="link", **copy)
        self.query = gr.Textbox(visible=False)  # of the link; the browser knows the address before it
        self.seed = gr.State("")  # of the last pictures

    @property
    def outputs(self) -> list[Any]:
        """All components that a run changes."""
        shown = [self.status, self.one, self.slider, self.clips, *self.videos, self.facts]
        return [*shown, self.gallery, self.command, self.python, self.job, self.query, self.seed]

    def begin(self) -> dict[Any, Any]:
        """Return the updates for a run that begins: nothing of the last one is left."""
        return {
            self.status: bar(0, "Waits for its turn."),
            self.one: gr.update(value=None, visible=True, label=facts.PLAIN),
            self.slider: gr.update(value=None, visible=False),
            self.clips: gr.update(visible=False),
            **dict.fromkeys(self.videos, gr.update(value=None)),
            self.facts: "",
            self.gallery: gr.update(value=None, visible=False),
            **dict.fromkeys([self.command, self.python, self.job, self.query], ""),
        }

    def step(self, step: Step, plain: Made | None) -> dict[Any, Any]:
        """Return the updates for a step; `plain` is the plain picture once it is made."""
        found = {self.status: bar(step.share, step.words)}
        if step.preview is None:
            return found
        if plain is None:
            return {**found, self.one: gr.update(value=step.preview, label=f"{facts.PLAIN}, so far")}
        if plain.path.suffix not in STILL:
            return {**found, self.one: gr.update(value=step.preview, label=f"{facts.CHANGED}, so far")}
        return {**found, **self._pair(str(plain.path), step.preview)}

    def plain(self, made: Made, more: bool) -> dict[Any, Any]:
        """Return the updates for the plain picture, which may have one `more` to come."""
        found = {self.facts: facts.table([made])}
        if made.path.suffix in STILL:
            return {**found, self.one: gr.update(value=str(made.path), visible=True, label=facts.PLAIN)}
        return {
            **found,
            self.one: gr.update(visible=more),
            self.clips: gr.update(visible=True),
            self.videos[0]: str(made.path),
        }

    def done(self, made: Sequence[Made], asked: Asked) -> dict[Any, Any]:
        """Return the updates for the end of a run."""
        found = {self.status: bar(1, f"done in {sum(each.seconds for each in made):.1f} s of drawing")}
        if len(made) == 2 and made[1].path.suffix in STILL:
            found |= self._pair(str(made[0].path), str(made[1].path))
        elif len(made) == 2:
            found |= {self.one: gr.update(visible=False), self.videos[1]: str(made[1].path)}
        pairs = zip(made, (facts.PLAIN, facts.CHANGED), strict=False)
        source = self.source(asked.with_seed(made[0].seed), made[0])
        return {
            **found,
            self.facts: facts.table(made),
            self.gallery: gr.update(value=[(str(each.path), label) for each, label in pairs], visible=True),
            self.command: snippets.command(source),
            self.python: snippets.python(source),
            self.job: snippets.job(source),
            self.query: share.query(source.asked),
            self.seed: str(made[0].seed),
        }

    def failed(self, sentence: str) -> dict[Any, Any]:
        """Return the updates for a run that ended without pictures."""
        return {**self.begin(), self.status: bar(0, sentence)}

    def source(self, asked: Asked, made: Made) -> snippets.Source:
        """Return what snippets are written from."""
        checkpoint = self.models.resolve(asked.model)
        return snippets.Source(
            asked,
            checkpoint.name,
            known_settings(checkpoint),
            made.record["device"],
            self.dtype,
            clip=made.path.suffix != ".png",
        )

    def _pair(self, first: Any, second: Any) -> dict[Any, Any]:
        return {
            self.one: gr.update(value=None, visible=False),
            self.slider: gr.update(value=(first, second), visible=True),
        }
