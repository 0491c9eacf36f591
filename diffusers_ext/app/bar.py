"""Draw how much of a job is done, with words on it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape


def bar(share: float, words: str, more: Sequence[str] = ()) -> str:
    """Return HTML: a bar filled to `share` from 0 to 1, a sentence, and further ones as a list.

    Who cannot see the bar hears the words.
    """
    rows = "".join(f"<li>{escape(text)}</li>" for text in more)
    rest = f"<ul>{rows}</ul>" if rows else ""
    done = f"{share * 100:.0f}"
    about = f'role="progressbar" aria-valuenow="{done}" aria-label="{escape(words)}"'
    filled = f'<div class="bar" {about}><div style="width: {done}%"></div></div>'
    return f'<div class="job-state">{filled}<p role="status">{escape(words)}</p>{rest}</div>'
