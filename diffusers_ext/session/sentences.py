"""Write what a session did in sentences, from the plain data of `Report.to_dict()["engagement"]`."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

KINDS = {"self": "self-attention", "cross": "cross-attention", "joint": "joint attention"}


def sentences(engagement: Mapping[str, Any]) -> list[str]:
    """Write a sentence for each method; the cost of attention follows the method that computes it."""
    methods = engagement["methods"]
    said = [_method(method) for method in methods]
    cost = _cost(engagement)
    last = max((i for i, m in enumerate(methods) if m["sparse"] and m["modules"]), default=None)
    if last is not None and cost:
        said[last] += f"; {cost}"
    return [f"{text}." for text in said]


def _method(facts: Mapping[str, Any]) -> str:
    name, kind = facts["name"], KINDS[facts["kinds"][0]] if len(facts["kinds"]) == 1 else "attention"
    if not facts["of_calls"]:
        return f"{name} has not run yet"
    if not facts["modules"]:
        why = "; ".join(facts["stayed_dense"])
        if facts["sparse"]:
            return f"{name} stayed dense in all {sum(facts['stayed_dense'].values())} {kind} modules ({why})"
        return f"{name} acted in none of {facts['of_calls']} calls of the denoiser"
    text = f"{name} ran in {facts['modules']} of {facts['of']} {kind} modules {_when(facts)}"
    if facts["sparse"]:
        text += f", on {' and '.join(facts['backends'])}" if facts["backends"] else ""
        text += f", and kept {_percent(facts['kept'])} of the pairs" if facts["kept"] is not None else ""
    if dense := facts["stayed_dense"]:
        text += f"; it stayed dense in {sum(dense.values())} ({'; '.join(dense)})"
    return text


def _when(facts: Mapping[str, Any]) -> str:
    """Write the steps of a method, counted from 1; JSON has text for keys."""
    if not facts["steps"]:
        return f"in {facts['calls']} of {facts['of_calls']} calls"
    spans = (f"{spans_of(found)} of {steps}" for steps, found in facts["steps"].items())
    one = len(facts["steps"]) == 1 and len(next(iter(facts["steps"].values()))) == 1
    return f"at {'step' if one else 'steps'} {' and '.join(spans)}"


def _cost(engagement: Mapping[str, Any]) -> str:
    time, gains = engagement["attention"], []
    parts = []
    if time and time["timed"] and time["denoiser"]:
        where = " and ".join(_dense_where(engagement))
        share = _percent(time["dense"] / time["denoiser"])
        dense = f"{share} of the time stayed in dense attention" + (f" ({where})" if where else "")
        parts.append(dense if time["dense"] else "no call that was timed stayed dense")
        if time["untimed"]:
            parts.append(f"{_modules(time['untimed'])} without it {_were(time['untimed'])} not timed")
    elif time:
        parts.append("attention in compiled blocks is not timed")
    if engagement["ideal"] is not None:
        gains.append(f"at best {_factor(engagement['ideal'])} times as fast as plain")
    if engagement["measured"] is not None:
        plain, own = engagement["measured_on"]
        counts = f"{own} picture{'s' if own > 1 else ''}"
        counts += f" and {plain} plain one{'s' if plain > 1 else ''}" if own != plain else ""
        counts = f"medians of {counts}" if own + plain > 2 else "on one picture"
        gains.append(f"measured {_factor(engagement['measured'])} times ({counts})")
    else:
        if engagement["estimated"] is not None:
            gains.append(f"{_factor(engagement['estimated'])} times by its own dense steps")
        gains.append("not measured beside a plain run")
    return "; ".join([*parts, ", ".join(gains)])


def _dense_where(engagement: Mapping[str, Any]) -> Iterable[str]:
    """Say which of the timed attention was dense."""
    found = [m for m in engagement["methods"] if m["sparse"] and m["modules"]]
    steps = {int(count): set(steps) for m in found for count, steps in m["steps"].items()}
    for count, ran in steps.items():
        if dense := sorted(set(range(count)) - ran):
            yield f"{'step' if len(dense) == 1 else 'steps'} {spans_of(dense)}"
    if dense := sum(sum(m["stayed_dense"].values()) for m in found):
        yield _modules(dense)


def spans_of(steps: Sequence[int]) -> str:
    """Write sorted numbers from 0 as spans from 1: `[0, 2, 3, 4]` is `1 and 3 to 5`."""
    breaks = [i for i, (a, b) in enumerate(pairwise(steps), 1) if b != a + 1]
    runs = (steps[a:b] for a, b in pairwise([0, *breaks, len(steps)]))
    texts = [f"{run[0] + 1} to {run[-1] + 1}" if len(run) > 1 else str(run[0] + 1) for run in runs]
    return " and ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)


def _modules(count: int) -> str:
    return "1 module" if count == 1 else f"{count} modules"


def _were(count: int) -> str:
    return "was" if count == 1 else "were"


def _factor(value: float) -> str:
    return f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.01 or not share else f"{100 * share:.1g} %"
