"""The layout of a video counts its patches, as the rotary positions of the model do."""

from math import prod
from typing import ClassVar

import pytest

from diffusers_ext.core import Layout

from .config import Config


class VideoTests(Config):
    """Tests for models of latents `[B, C, T, H, W]`, with text behind the video if it is in the sequence."""

    words: ClassVar[int] = 0  # text tokens in the sequence of `inputs`
    token_axis: ClassVar[int | None] = None  # of the cosines that `rope` of the model makes of latents

    @pytest.mark.parametrize("grid", [(3, 4, 6), (1, 5, 3), (7, 1, 1)], ids=str)
    def test_layout_counts_patches(self, grid):
        model = self.build()
        call = self.inputs(2, **dict(zip(("frames", "height", "width"), grid, strict=True)))
        tokens, layout = prod(grid), self.family.layout(model, call)
        text = slice(tokens, tokens + self.words) if self.words else slice(0, 0)
        assert layout == Layout(grid, text, slice(0, tokens), masked_text=self.words > 0)
        if self.token_axis is not None:
            assert model.rope(call["hidden_states"])[0].shape[self.token_axis] == tokens
