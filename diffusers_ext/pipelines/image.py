"""Pictures: a text-to-image pipeline of diffusers with methods and a sampler."""

from __future__ import annotations

from typing import ClassVar

from .base import ExtPipeline


class ImageExtPipeline(ExtPipeline):
    """A pipeline of diffusers that makes pictures, with methods and a sampler; see `ExtPipeline`.

    `out.images` holds the pictures, and `out.report` says where and when each method ran.
    """

    videos: ClassVar[bool | None] = False
