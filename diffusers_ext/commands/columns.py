"""Read the columns of a comparison, as `plain,softpag,best-of-8,softpag+best-of-8`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import options as opt

if TYPE_CHECKING:
    from ..evaluate.cells import Variant
    from ..models.checkpoint import Checkpoint
    from ..settings.samplers import Named
    from .scoring import Scorers


@dataclass(frozen=True, slots=True)
class Asked:
    """A column as typed: the names of its methods, and its samplers in their order."""

    label: str
    methods: tuple[str, ...]
    samplers: tuple[Named, ...]


def read(text: str) -> list[Asked]:
    """Read labels with commas between them.

    Raises `ValueError` for unknown names, for columns that come twice, and for none.
    """
    from ..settings.samplers import parts

    labels = [label.strip() for label in text.split(",") if label.strip()]
    if twice := [label for label in dict.fromkeys(labels) if labels.count(label) > 1]:
        raise ValueError(
            f"each column comes once, got {', '.join(labels)}; name {twice[0]} once, and give it other "
            "settings in a run of its own"
        )
    if not labels:
        raise ValueError("at least one column is needed, got none; write names, as plain,softpag,best-of-8")
    return [Asked(label, *map(tuple, parts(label))) for label in labels]


def needs_rewards(columns: Sequence[Asked]) -> bool:
    """Return whether a sampler of the columns cannot run without a reward."""
    return any(getattr(s.cls, "needs_rewards", True) for column in columns for s in column.samplers)


def _paid(sampler: Named, budget: int | None, column: Asked) -> dict[str, int]:
    """Return the share of the budget of a column that a sampler has; transforms of noise spend nothing."""
    from ..settings.samplers import main_count, transforms

    if budget is None:
        return {}
    count = sum(not transforms(s.cls) for s in column.samplers)
    share = max(budget // max(count, 1), min(budget, 1))
    most = main_count(sampler.cls) if sampler.count is None else None
    return {"budget": share} | ({most: share} if most and share > 0 else {})


def variants(
    columns: Sequence[Asked],
    settings: Sequence[str],
    model: Checkpoint,
    preset: bool | None,
    scorers: Scorers | None = None,
    budget: int | None = None,
    measured: bool = False,
    **usual: Any,
) -> tuple[list[Variant], list[str]]:
    """Build columns, and return the lines on where settings came from.

    A setting goes to each method and sampler that has it, or to the one that it names. `usual` are settings
    of samplers that were not given otherwise. The samplers of a column share its `budget`, and take as many
    candidates or rounds as it pays for, unless their number is given. If all are `measured`, a column without
    a sampler draws one picture and scores it.
    """
    from ..evaluate.cells import Variant
    from ..settings.assign import assigned, takers
    from ..settings.samplers import build, chained, classes_of

    methods = list(dict.fromkeys(name for column in columns for name in column.methods))
    samplers = {s.label: s for column in columns for s in column.samplers}
    classes, kinds = classes_of(methods, list(samplers.values()))
    texts = takers(settings, classes, kinds)
    ours = [f"{name}.{field}={raw}" for name, field, raw in texts if name in methods]
    built, notes = opt.chosen(model, methods, ours, preset)
    by_name = dict(zip(methods, built, strict=True))
    theirs = [f"{name}.{field}={raw}" for name, field, raw in texts if name in samplers]
    values = assigned(theirs, {name: classes[name] for name in samplers})
    rewards = None if scorers is None else scorers.rewards
    found = []
    for column in columns:
        chain = [
            build(s, {**_paid(s, budget, column), **usual, **values[s.label]}, rewards)
            for s in column.samplers
        ]
        if measured and not chain:
            chain = [_one(rewards)]
        facts = scorers.facts if scorers is not None and chain else ()
        found.append(Variant(column.label, tuple(by_name[n] for n in column.methods), chained(chain), facts))
    return found, notes


def _one(rewards: Any) -> Any:
    from ..sampling.best_of_n import BestOfN

    return BestOfN(n=1, rewards=rewards)
