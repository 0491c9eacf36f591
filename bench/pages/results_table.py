"""Write the tables of docs/evaluation.md from committed result files."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from diffusers_ext.evaluate.committed import guidance, methods
from diffusers_ext.evaluate.words import change, narrow, part
from diffusers_ext.zoo.catalogue import WEIGHTS
from diffusers_ext.zoo.world.suites import TASKS

from .markdown import markdown

SHORT = {
    "single_object": "one",
    "two_object": "two",
    "three_object": "three",
    "counting": "count",
    "color_attr": "colours",
    "two_motion": "two moving",
}


def render(results: Iterable[Mapping[str, Any]]) -> str:
    """Return Markdown: the plain models by task, clip models apart, and below what each method changes."""
    found = list(results)
    models = plain(found)
    clips = [p for p in models if "motion" in p["tasks"]]
    kinds = [p for p in models if p not in clips], clips
    parts = [_models(kind) for kind in kinds if kind]
    if swaps := [p for p in models if "swapped" in p["tasks"].get("color_attr", {})]:
        parts.append(_swapped(swaps))
    if any("plain" in f for f in found):
        parts.append(_methods([f for f in found if "plain" in f]))
    return "\n\n".join(parts)


def plain(found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return plain figures, each once, by model and suite; runs of several methods measured the same ones."""
    rows: dict[str, dict[str, Any]] = {}
    for f in found:
        if "plain" in f or not f["methods"]:
            facts = {**f, **f.get("plain", {})}
            rows.setdefault(json.dumps([f["model"], f["suite"], f["n"], f["call"]]), facts)
    return sorted(rows.values(), key=_order)


def _order(found: Mapping[str, Any]) -> tuple[str, str, bool]:
    return found["model"], _steps(found["call"]), found["suite"] != "train-like"


def _models(plain: Sequence[Mapping[str, Any]]) -> str:
    tasks = [t for t in TASKS if any(t in p["tasks"] for p in plain)]
    heads = ["model", "steps, CFG", "prompts", *(SHORT.get(t, t) for t in tasks), "all", "MiB"]
    rows = []
    for p in plain:
        shares = [narrow(p["tasks"].get(t)) for t in tasks]
        head = [p["model"], _steps(p["call"]), f"{p['suite']}, {p['n']} each"]
        tail = [narrow(p["overall"]), _size(p["model"])]
        rows.append([*head, *shares, *tail])
    return markdown(heads, rows)


def _methods(found: Sequence[Mapping[str, Any]]) -> str:
    heads = ["model", "steps, CFG", "prompts", "method", "plain", "with it", "change in points", "p"]
    rows = []
    for f in sorted(found, key=_order):
        pair = f["paired"]["overall"]
        head = [f["model"], _steps(f["call"]), f"{f['suite']}, {f['overall']['n']}", methods(f)]
        shares = [narrow(f["plain"]["overall"]), narrow(f["overall"])]
        rows.append([*head, *shares, change(pair), f"{pair['p']:.2g}"])
    return markdown(heads, rows)


def _swapped(plain: Sequence[Mapping[str, Any]]) -> str:
    parts = []
    for p in plain:
        entry = p["tasks"]["color_attr"]
        share = part(entry["swapped"], entry["n"])
        parts.append(f"{p['model']} ({_steps(p['call'])}) {p['suite']} {share}")
    return f"Pictures of the task colours that only exchange the two colours: {', '.join(parts)}."


def _steps(call: Mapping[str, Any]) -> str:
    return f"{call.get('num_inference_steps', '?')}, {guidance(call)}"


def _size(model: str) -> str:
    """Return the MiB of a shipped model's weights; nothing for models that are not shipped."""
    size = sum(f.stat().st_size for f in (WEIGHTS / model).rglob("*.safetensors"))
    return f"{size / 2**20:.1f}" if size else ""
