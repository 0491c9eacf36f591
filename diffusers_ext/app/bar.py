"""Draw how much of a job is done, with words on it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

STYLE = """<style>
.job-bar { height: .6rem; border-radius: .3rem; background: var(--border-color-primary); overflow: hidden }
.job-bar div { height: 100%; background: var(--color-accent) }
.job-state p, .job-state ul { margin: .3rem 0 } .job-state ul { padding-left: 1.2rem }
</style>"""


def bar(share: float, words: str, more: Sequence[str] = ()) -> str:
    """Return HTML: a bar filled to `share` from 0 to 1, a sentence, and further ones as a list."""
    rows = "".join(f"<li>{escape(text)}</li>" for text in more)
    return (
        f'{STYLE}<div class="job-state"><div class="job-bar" role="progressbar" '
        f'aria-label="share that is done" aria-valuenow="{share * 100:.0f}">'
        f'<div style="width: {share * 100:.1f}%"></div></div>'
        f'<p role="status">{escape(words)}</p>{f"<ul>{rows}</ul>" if rows else ""}</div>'
    )
