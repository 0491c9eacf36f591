"""Write the files of `diffusers-ext eval`: results.json, the table, the chart and the gallery."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...outputs.files import write_json, write_text
from .. import density
from ..cells import Column
from ..words import difference, enough, part, percent
from .gallery import gallery
from .plot import accuracies, save


def write(folder: Path, found: Mapping[str, Any], ours: Column, plain: Column | None = None) -> list[Path]:
    """Write all files and return their paths.

    results.json is written last, so if it exists, the others do.
    """
    made = [folder / "table.md", *save(accuracies(found, ours.label), folder / "accuracy")]
    write_text(made[0], markdown(found, ours.label) + "\n")
    title = f"{found['model']}: {ours.label} on {found['suite']} prompts"
    made.append(folder / "gallery.html")
    write_text(made[-1], gallery(title, ours, plain, remarks(found, ours.label)))
    made.append(folder / "results.json")
    write_json(made[-1], found)
    return made


def rows(found: Mapping[str, Any], label: str) -> list[list[str]]:
    """Put the figures into words: a heading, a row for each task, and one for all tasks."""
    plain, paired = found.get("plain"), found.get("paired")
    heads = ["task", "prompts", label] if plain is None else ["task", "prompts", "plain", label, "difference"]
    out = [heads]
    entries = [{**f["tasks"], "overall": f["overall"]} if f else {} for f in (found, plain, paired)]
    for task in entries[0]:
        ours, base, pair = (by_task.get(task) for by_task in entries)
        cells = [task, str(ours["n"]), percent(ours) + _swapped(ours)]
        if plain is not None:
            cells = [*cells[:2], percent(base) + _swapped(base), cells[2], difference(pair)]
        out.append(cells)
    return out


def markdown(found: Mapping[str, Any], label: str) -> str:
    """Write the figures as a Markdown table, with the conditions of the measurement below."""
    heads, *body = rows(found, label)
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    lines += [f"| {' | '.join([cells[0].replace('_', ' '), *cells[1:]])} |" for cells in body]
    return "\n".join([*lines, "", *remarks(found, label)])


def remarks(found: Mapping[str, Any], label: str) -> Sequence[str]:
    """Return sentences on what the figures were measured on and in which modules the methods ran."""
    pace = f"{label} takes {found['seconds_per_image']:.2f} s an image"
    if plain := found.get("plain"):
        pace += f", plain {plain['seconds_per_image']:.2f} s"
    call = ", ".join(f"{k} {v}" for k, v in found["call"].items())
    return (
        f"{found['suite']} prompts, {found['n']} a task, seed {found['seed']}; {call}.",
        f"Intervals hold 95 %; {pace}." if enough(found["overall"]) else f"{pace[0].upper()}{pace[1:]}.",
        *density.sentences(found.get("sites", {})),
    )


def _swapped(entry: Mapping[str, Any]) -> str:
    return f", swapped {part(entry['swapped'], entry['n'])}" if "swapped" in entry else ""
