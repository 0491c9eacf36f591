"""Sizes in pixels become the grid and the text that a run of the pipeline has."""

import diffusers_ext as dx
from diffusers_ext.families.latents import defaults
from diffusers_ext.models.sizes import of_pipeline

from ... import hosts
from .config import Config


class SizesTests(Config):
    """The forecast of tokens against the layout of a run."""

    def test_tokens_are_those_of_a_run(self):
        host = hosts.host(self.host)
        pipe = host.build()
        tokens = of_pipeline(pipe)
        with dx.apply(pipe) as session:
            host.run(pipe, steps=host.least_steps)
        layout = session.run.layout
        t, h, w = tokens.grids(host.size | {"text": 0})[tokens.levels[0]].shape
        halved = 2 ** tokens.levels[0]
        assert (t, h, w) == (layout.grid[0], *(-(-side // halved) for side in layout.grid[1:]))
        text = tokens.text
        if text:  # the run asks for fewer tokens than the default of the pipeline
            text += host.extra["max_sequence_length"] - defaults(pipe)["max_sequence_length"]
        assert layout.text.stop - layout.text.start == text
