"""Run a suite for one variant, skipping what is done, and put the figures together."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ..sampling.generate import applied, generate
from ..sampling.items import Item
from ..sampling.progress import Progress
from ..settings.methods import PLAIN
from . import density
from .cells import Column, Variant
from .pictures import Pictures
from .score import Judged, compare, judge_picture, summarise
from .store import Store
from .suite import Question


def key(variant: Variant) -> str:
    """Return the text that identifies the pictures of a variant: all settings of its methods and sampler."""
    return json.dumps(variant.settings(), sort_keys=True)


def answer(
    pipe: Any,
    variant: Variant,
    questions: Sequence[Question],
    call: Mapping[str, Any],
    store: Store,
    batch: int = 8,
    pictures: Pictures | None = None,
    progress: Progress | None = None,
) -> list[Judged]:
    """Return verdicts in the order of `questions`. Those in the store are not made again.

    `pictures` stores the pictures, too; those that it lacks are made again. The modules in which the methods
    ran are stored beside the verdicts (`density.keep`). Failures are reported to `progress` and left out;
    without it the first one is raised. Raises `ValueError` at the first pictures of a model that does not
    draw shapes world.
    """
    name = key(variant)
    tasks = {q.item: q.task for q in questions}
    todo = [
        item
        for item in tasks
        if store.get(name, item.prompt, item.seed) is None
        or (pictures is not None and not pictures.has(name, item))
    ]
    if progress is not None:
        progress.skip(len(questions) - len(todo))
    if todo:
        with applied(pipe, variant.methods) as session:
            for made in generate(pipe, todo, call, batch, progress, variant.sampler):
                judged = [judge_picture(p, tasks[p.item]) for p in made]
                # prompts of suites are in the grammar
                if unknown := [j.reason for j in judged if j.correct is None]:
                    raise ValueError(f"suites are for models of shapes world, and this one has {unknown[0]}")
                for p in made if pictures is not None else ():
                    pictures.add(name, p.item, p.image)
                if session and (ran := density.of(variant.methods, session.report().to_dict())):
                    density.keep(store.path.parent, name, ran)
                store.add(name, judged)
                if progress is not None:
                    progress.tick(len(made))
    found = [store.get(name, q.item.prompt, q.item.seed) for q in questions]
    return [judged for judged in found if judged is not None]


def column(variant: Variant, judged: Sequence[Judged], pictures: Pictures) -> Column:
    """Return a variant as a column of the gallery. Its pictures are read from the disk one by one."""
    name = key(variant)
    return Column(
        variant.label or PLAIN, judged, lambda j: pictures.path(name, Item(j.prompt, j.seed)).read_bytes()
    )


def results(
    variant: Variant,
    judged: Sequence[Judged],
    plain: Sequence[Judged] | None = None,
    ran: density.Modules | None = None,
) -> dict[str, Any]:
    """Return `tasks`, `overall` and seconds; with `plain` also its figures and the paired comparison.

    `ran` holds the modules in which the methods ran and becomes `sites`.
    """
    found: dict[str, Any] = {
        "methods": variant.settings(),
        **summarise(judged),
        "seconds_per_image": sum(j.seconds for j in judged) / len(judged),
    }
    if plain is not None:
        found["plain"] = summarise(plain) | {"seconds_per_image": sum(j.seconds for j in plain) / len(plain)}
        found["paired"] = compare(plain, judged)
    if ran:
        found["sites"] = ran
    return found


def both(first: Sequence[Judged], second: Sequence[Judged]) -> tuple[list[Judged], list[Judged]]:
    """Return the verdicts of two variants on the pictures that both have, in the order of the first."""
    other = {(j.prompt, j.seed): j for j in second}
    found = [j for j in first if (j.prompt, j.seed) in other]
    return found, [other[j.prompt, j.seed] for j in found]
