"""Compare the aims for the models of the zoo with what the models reach, from the committed results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from diffusers_ext.evaluate.committed import load, result_files
from diffusers_ext.evaluate.words import percent
from diffusers_ext.evaluate.words import points as in_points
from diffusers_ext.zoo import catalogue

from ..ledger import committed
from .markdown import markdown
from .results_table import plain

BANDS = {
    "single_object": (0.92, 1.0),
    "two_object": (0.45, 0.85),
}  # hard enough to leave room for methods, but not hopeless
JUDGE, PREFERENCE, GAP = 0.99, 0.90, 0.15
STUDENT, TEACHER = "shapes-sd-turbo", "shapes-sd"  # a student is compared with its teacher, not with bands


def to_markdown() -> str:
    """Return a row for each aim."""
    return markdown(["aim", "of", "measured", "met"], [*_bands(), *_judges(), _reward(), *_student()])


def verdict(entry: Mapping[str, Any], low: float, high: float) -> str:
    """Return "yes" for a share in the band, else its side, and whether its interval reaches the band."""
    if low <= entry["accuracy"] <= high:
        return "yes"
    within = entry["low"] <= high and entry["high"] >= low
    side = "above" if entry["accuracy"] > high else "below"
    return f"no, {side}" + (", within the interval" if within else "")


def _bands() -> Iterator[list[str]]:
    for found in _plain():
        for task, (low, high) in BANDS.items() if found["model"] != STUDENT else ():
            entry = found["tasks"][task]
            aim = f"`{task}` {100 * low:.0f} %" + (" at least" if high == 1 else f" to {100 * high:.0f} %")
            of = f"{found['model']}, {found['suite']}"
            yield [aim, of, percent(entry), verdict(entry, low, high)]


def _judges() -> Iterator[list[str]]:
    for name in ("detector-renders", "clip_detector-renders"):
        found = committed(name)
        what = "clips" if "clips" in found else "pictures"
        entry = found["exact"]
        aim = f"judge {100 * JUDGE:.0f} % exact at least"
        yield [aim, f"{what} as drawn", f"{100 * entry['accuracy']:.2f} %", verdict(entry, JUDGE, 1.0)]


def _reward() -> list[str]:
    found = committed("reward-shapes-clip-held-out")
    entry = found["drawn"]["picture"]["overall"]
    aim = f"right one of two pictures preferred in {100 * PREFERENCE:.0f} % at least"
    return [aim, f"shapes-clip, {found['suite']}", percent(entry), verdict(entry, PREFERENCE, 1.0)]


def _student() -> Iterator[list[str]]:
    overall = {(f["model"], f["suite"]): f["overall"]["accuracy"] for f in _plain()}
    for (model, suite), share in overall.items():
        if model == STUDENT:
            gap = overall[TEACHER, suite] - share
            aim = f"within {100 * GAP:.0f} points of {TEACHER}"
            yield [
                aim,
                f"{STUDENT}, {suite}",
                f"{in_points(gap).lstrip('+')} points below",
                "yes" if gap <= GAP else "no",
            ]


def _plain() -> list[dict[str, Any]]:
    return [f for f in plain(load(result_files())) if f["model"] in catalogue.MODELS]
