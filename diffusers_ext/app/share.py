"""Put settings into a link, and read them from one that anybody may have written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from urllib.parse import quote

from ..errors import MethodError
from .asked import Asked

KEY = "compare"  # of the query
LONGEST = 20_000  # characters of the settings


def query(asked: Asked) -> str:
    """Return the query of a link that restores the settings, from its question mark on."""
    text = json.dumps(asked.to_data(), default=dict, separators=(",", ":"), ensure_ascii=False)
    return f"?{KEY}={quote(text, safe='')}"


def read(parameters: Mapping[str, str]) -> Asked | None:
    """Return the settings that the parameters of a query hold, `None` if there are none.

    Raises `ValueError` in one sentence for a link that was cut or changed, and as `Asked.of` does.
    """
    text = parameters.get(KEY)
    if text is None:
        return None
    if len(text) > LONGEST:
        raise MethodError(f"the link has {len(text)} characters of settings, and {LONGEST} are taken.")
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        raise MethodError(
            "the link was cut or changed, so its settings cannot be read; copy it again."
        ) from None
    try:
        return Asked.of(data)
    except RecursionError:
        raise MethodError("the link nests its settings too deeply; copy it again.") from None
