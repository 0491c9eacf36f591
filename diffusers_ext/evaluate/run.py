"""Runs a suite for one variant, skipping what is done, and puts the figures together."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..settings import as_dict
from .compare import Variant
from .generate import applied, generate
from .score import Judged, compare, judge, summarise
from .store import Store
from .suite import Question


def key(variant: Variant) -> str:
    """What tells the pictures of one variant from those of another: its methods with all settings."""
    return json.dumps([as_dict(m) for m in variant.methods], sort_keys=True)


def answer(
    pipe: Any,
    variant: Variant,
    questions: Sequence[Question],
    call: Mapping[str, Any],
    store: Store,
    batch: int = 8,
    tick: Callable[[int], object] = lambda done: None,
) -> list[Judged]:
    """Verdicts in the order of `questions`; pictures that the store knows are not made again."""
    name = key(variant)
    tasks = {q.item: q.task for q in questions}
    todo = [i for i in tasks if store.get(name, i.prompt, i.seed) is None]
    tick(len(questions) - len(todo))
    if todo:
        with applied(pipe, variant.methods):
            for pictures in generate(pipe, todo, call, batch):
                judged = [
                    judge(p.image, p.item.prompt, p.item.seed, p.seconds, tasks[p.item]) for p in pictures
                ]
                store.add(name, judged)
                tick(len(pictures))
    return [store.done[name, q.item.prompt, q.item.seed] for q in questions]


def results(
    variant: Variant, judged: Sequence[Judged], plain: Sequence[Judged] | None = None
) -> dict[str, Any]:
    """`tasks`, `overall`, seconds; with `plain` also its figures and the paired comparison."""
    found: dict[str, Any] = {
        "methods": [as_dict(m) for m in variant.methods],
        **summarise(judged),
        "seconds_per_image": sum(j.seconds for j in judged) / len(judged),
    }
    if plain is not None:
        found["plain"] = summarise(plain) | {"seconds_per_image": sum(j.seconds for j in plain) / len(plain)}
        found["paired"] = compare(plain, judged)
    return found
