"""Record in which modules sparse methods ran.

A comparison with a method that stayed dense would compare the plain model with itself.
"""

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from warnings import catch_warnings, filterwarnings

from ..outputs.files import write_json

FILE = "sites.json"
DENSE = "dense"

# method name -> its attention modules, each `{path, backend, why, density, full_share}` of the report
Modules = Mapping[str, Sequence[Mapping[str, Any]]]


def of(methods: Sequence[Any], report: Mapping[str, Any] | None) -> dict[str, list[dict[str, Any]]]:
    """Return the modules of each method that computes attention, from `Report.to_dict()`."""
    from ..core import Slot  # brings torch

    fields = "path", "backend", "why", "density", "full_share"
    return {
        m.name: [{f: s[f] for f in fields} for s in report["sites"] if m.name in s["methods"]]
        for m in methods
        if Slot.CORE in m.slots
    }


@contextmanager
def unlogged() -> Iterator[None]:
    """Keep sparse methods that stay dense from logging it, for commands that print `sentences`."""
    log = logging.getLogger("diffusers_ext")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with catch_warnings():
            filterwarnings(
                "ignore", r"diffusers_ext: \w+ changed nothing in this run: (dense_steps|\w+ hides)"
            )
            yield
    finally:
        log.setLevel(level)


def keep(folder: Path, variant: str, sites: Modules) -> None:
    """Store the modules of a variant beside the verdicts; a resumed run may have nothing left to run."""
    write_json(folder / FILE, _read(folder) | {variant: sites})


def kept(folder: Path, variant: str) -> dict[str, list[dict[str, Any]]]:
    """Read what `keep` wrote; empty for a variant without methods that compute attention."""
    return _read(folder).get(variant, {})


def idle(sites: Modules) -> list[str]:
    """Name the methods that left attention dense in every module."""
    return [name for name, own in sites.items() if all(s["backend"] == DENSE for s in own)]


def sentences(sites: Modules) -> list[str]:
    """Write a sentence per method: `clear: reference at 6 of 6 modules (asked for, density 0.18 to 0.50).`"""
    out = []
    for name, own in sites.items():
        kinds: dict[tuple[str, str], list[float]] = {}
        for s in own:
            kinds.setdefault((s["backend"], s["why"]), []).append(s["density"])
        parts = [
            f"{backend} at {len(densities)} of {len(own)} modules ({_reason(backend, why, densities)})"
            for (backend, why), densities in kinds.items()
        ]
        out.append(f"{name}: {'; '.join(parts)}.")
    return out


def warnings(sites: Modules) -> list[str]:
    """Write a sentence for each method that did nothing, with the next step."""
    return [
        f"{name} left attention dense in all modules, so its pictures show nothing of it; change its "
        f"settings, or name a back-end, as --set {name}.backend=reference, where only the gain is in doubt"
        for name in idle(sites)
    ]


def compared(write: Callable[[Modules], list[str]], ran: Mapping[str, Modules]) -> list[str]:
    """Apply `write` to the methods of each variant and collect the sentences.

    A sentence is prefixed by the label of its variant if variants with the same method differ. Otherwise it
    appears once. `ran` holds the modules by label.
    """
    said = [(label, name, write({name: run[name]})) for label, run in ran.items() for name in run]
    kinds = {name: {tuple(texts) for _, other, texts in said if other == name} for _, name, _ in said}
    lines = [
        f"{label}: {text}" if len(kinds[name]) > 1 else text for label, name, texts in said for text in texts
    ]
    return list(dict.fromkeys(lines))


def _reason(backend: str, why: str, densities: Sequence[float]) -> str:
    if backend == DENSE:
        return why
    low, high = (f"{d:.2f}" for d in (min(densities), max(densities)))
    return f"{why}, density {low}" + (f" to {high}" if high != low else "")


def _read(folder: Path) -> dict[str, Any]:
    path = folder / FILE
    return json.loads(path.read_text()) if path.exists() else {}
