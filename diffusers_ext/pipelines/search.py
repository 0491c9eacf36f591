"""Searches: a pipeline of diffusers that makes the best of several pictures or clips."""

from __future__ import annotations

from typing import ClassVar

from .base import ExtPipeline


class NoiseSearchPipeline(ExtPipeline):
    """A pipeline of pictures or clips that always searches; see `ExtPipeline`.

    `out.images` (of videos `out.frames`) holds the best for each prompt, and `out.scores [P]` its rewards.
    `out.seeds` are the seeds that make them again where a seed alone does. `out.nfe` counts evaluations of
    the denoiser, and `out.result.history` holds all candidates.
    """

    needs_sampler: ClassVar[bool] = True
