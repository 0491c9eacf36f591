"""Compare verdicts on a suite for several models or settings; verdicts are kept on the disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from diffusers_ext.evaluate.cells import Variant
from diffusers_ext.evaluate.pictures import Pictures
from diffusers_ext.evaluate.runner import answer
from diffusers_ext.evaluate.score import Judged, compare, summarise
from diffusers_ext.evaluate.store import Store
from diffusers_ext.evaluate.suite import Question
from diffusers_ext.evaluate.words import difference, percent
from diffusers_ext.models.checkpoint import Checkpoint
from diffusers_ext.outputs.files import output_folder

from ..pages.markdown import markdown

KEPT = "samples", "steps", "hours", "hardware", "seed", "teacher"  # entries of a student's card


def verdicts(
    model: str,
    variant: Variant,
    asked: Sequence[Question],
    cache: Path,
    batch: int,
    pictures: Pictures | None = None,
    **call: Any,
) -> list[Judged]:
    """Return the verdicts of one model with the methods of `variant`, in the order of `asked`.

    `pictures` keeps the pictures. `call` replaces the model's defaults.
    """
    checkpoint = Checkpoint.resolve(model)
    pipe, call, origin = checkpoint.load(), {**checkpoint.call, **call}, checkpoint.marks
    mark = hashlib.sha256(json.dumps(call, sort_keys=True).encode()).hexdigest()
    folder = output_folder(cache / origin["weights"][:12] / mark[:12])
    store = Store(folder, {**origin, "call": call})
    return answer(pipe, variant, asked, call, store, batch, pictures)


def results(
    judged: Mapping[str, Sequence[Judged]], pairs: Iterable[tuple[str, str]]
) -> dict[str, dict[str, Any]]:
    """Return accuracies by variant and task, and the paired differences second minus first of `pairs`."""
    paired = {f"{b} - {a}": compare(judged[a], judged[b])["overall"] for a, b in pairs}
    return {"variants": {label: summarise(found) for label, found in judged.items()}, "paired": paired}


def table(found: Mapping[str, Any]) -> str:
    """Return accuracy by task and variant, then the differences, for a page."""
    variants = found["variants"]
    tasks = list(next(iter(variants.values()))["tasks"])
    rows = [
        [f"`{t}`", *(f"{100 * v['tasks'][t]['accuracy']:.0f} %" for v in variants.values())] for t in tasks
    ]
    rows.append(["all", *(percent(v["overall"]) for v in variants.values())])
    lines = [f"- {name}: {difference(p)}" for name, p in found["paired"].items()]
    return "\n".join([markdown(["task", *variants], rows), "", *lines])
