"""Show a batch: how much is finished, a table of its pictures, and what can be done with it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any, Self

import gradio as gr

from . import numbers
from .bar import bar
from .batch_state import Batch, Entry
from .batch_store import Batches

ROWS = 50  # of the table at a time
MINE = 50  # batches that a browser remembers
HEADS = ("no.", "prompt", "seed", "state", "verdict", "s")
EMPTY = "No batch is open."


@dataclass
class Shown:
    """The components that show a batch. `seen` holds what the last look showed."""

    state: gr.HTML
    stop: gr.Button
    go_on: gr.Button
    delete: gr.Button
    table: gr.HTML
    page: gr.Textbox
    timer: gr.Timer
    seen: gr.State
    more: list[gr.Button] = field(default_factory=list)  # for a batch with a picture

    @classmethod
    def build(cls) -> Self:
        """Make them. Call it inside `gr.Blocks`."""
        state = gr.HTML(bar(0, EMPTY), elem_id="batch-state")
        with gr.Row():
            stop, go_on, delete = (_button(label) for label in ("Stop", "Go on", "Delete"))
        table = gr.HTML("", padding=False, elem_id="batch-table")
        page = numbers.field("Page of the table", "where the batch is", "batch-page")
        return cls(state, stop, go_on, delete, table, page, gr.Timer(1.0, active=False), gr.State(""))

    def button(self, label: str, name: str) -> gr.Button:
        """Make a button that works once a picture is finished."""
        self.more.append(_button(label, name))
        return self.more[-1]

    @property
    def outputs(self) -> list[Any]:
        """The components in the order of `view`."""
        own = [self.state, self.table, self.stop, self.go_on, self.delete, *self.more]
        return [*own, self.timer, self.seen]


def view(batch: Batch, page: Any = None) -> list[Any]:
    """Return updates of `Shown.outputs`. The last one changes whenever any other does.

    `page` is that of the table as text; empty for the one with the picture that is being made.
    """
    done, _, failed = batch.counts()
    asked = numbers.read(page, "the page")
    first = min(batch.now(), batch.total - 1) // ROWS * ROWS if asked is None else (int(asked) - 1) * ROWS
    running, over = batch.running, done >= batch.total
    words = batch.words()
    if (left := batch.left_s()) is not None:
        words += f", about {left:.0f} s left"
    on = [running, not running and not over, not running, done > 0, done > 0]
    return [
        bar((done + failed) / batch.total, words, batch.notes),
        table(batch.entries(first, ROWS), batch.total),
        *[gr.update(interactive=value) for value in on],
        gr.update(active=running),
        f"{batch.id} {words} {first} {running}",
    ]


def ended(words: str) -> list[Any]:
    """Return updates of `Shown.outputs` where there is nothing to show any more."""
    return [bar(0, words), gr.skip(), *[gr.update(interactive=False)] * 5, gr.update(active=False), ""]


def opened(batch: Batch, others: Sequence[Sequence[str]]) -> list[Any]:
    """Return updates of all outputs of the tab for a batch that was opened."""
    pairs = [[batch.id, batch.title], *(list(pair) for pair in others if pair[0] != batch.id)][:MINE]
    return [_choices(pairs, batch.id), json.dumps(pairs), *view(batch), *_no_files()]


def closed(others: Sequence[Sequence[str]]) -> list[Any]:
    """Return updates of all outputs of the tab where no batch is open."""
    found = ended(EMPTY)
    found[1] = ""
    return [_choices(others, None), json.dumps(others), *found, *_no_files()]


def known(batches: Batches, mine: Any) -> list[list[str]]:
    """Return ids and titles from what a browser remembers as JSON, without those that are gone."""
    try:
        pairs = json.loads(mine)
    except (TypeError, ValueError, RecursionError):
        return []
    pairs = pairs if isinstance(pairs, list) else []
    fine = [p for p in pairs if isinstance(p, list) and len(p) == 2 and all(isinstance(t, str) for t in p)]
    return [[name, title[:80]] for name, title in fine[:MINE] if batches.has(name)]


def table(entries: Sequence[Entry], total: int) -> str:
    """Return a table of pictures as HTML."""
    heads = "".join(f"<th>{head}</th>" for head in HEADS)
    rows = "".join(_row(entry) for entry in entries)
    last = entries[-1].number + 1 if entries else 0
    part = f"<p>{entries[0].number + 1} to {last} of {total}</p>" if entries and len(entries) < total else ""
    return (
        '<div class="batch-table" tabindex="0" role="region" aria-label="Pictures of the batch">'
        f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>{part}"
    )


def _row(entry: Entry) -> str:
    prompt = f"{entry.prompt} ({entry.point})" if entry.point else entry.prompt
    seconds = "" if entry.seconds is None else f"{entry.seconds:.2f}"
    kind = entry.verdict.partition(":")[0] if entry.state == "finished" else entry.state
    verdict = f'<td class="{escape(kind.replace(" ", "-"), quote=True)}">{escape(entry.verdict)}</td>'
    cells = [f"<td>{escape(text)}</td>" for text in (str(entry.number), prompt, str(entry.seed), entry.state)]
    return f"<tr>{''.join(cells)}{verdict}<td>{seconds}</td></tr>"


def _choices(pairs: Sequence[Sequence[str]], value: str | None) -> Any:
    return gr.update(choices=[(f"{title} ({name[:6]})", name) for name, title in pairs], value=value)


def _no_files() -> list[Any]:
    return [gr.update(value=None, visible=False)] * 2 + [""]


def _button(label: str, name: str = "") -> gr.Button:
    place = f"batch-{name or label.lower().replace(' ', '-')}"
    return gr.Button(label, size="sm", interactive=False, min_width=90, elem_id=place)
