"""Clips: a text-to-video pipeline of diffusers with methods and a sampler."""

from __future__ import annotations

from typing import ClassVar

from .base import ExtPipeline


class VideoExtPipeline(ExtPipeline):
    """A pipeline of diffusers that makes clips, with methods and a sampler; see `ExtPipeline`.

    `out.frames` holds the frames of each clip, and `out.report` says where and when each method ran.
    """

    videos: ClassVar[bool | None] = True
