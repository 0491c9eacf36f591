"""Look inside a model: what its attention heads do, and where it puts the words of a prompt."""

from __future__ import annotations

from .head_pictures import heads
from .head_sheet import HeadPicture, HeadSheet
from .token_maps import TokenMaps, maps
from .words import Word

__all__ = ["HeadPicture", "HeadSheet", "TokenMaps", "Word", "heads", "maps"]
