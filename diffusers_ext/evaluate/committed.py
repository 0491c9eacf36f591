"""Read the committed results of the shipped models, beside the weights, and put them into sentences."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..zoo.catalogue import WEIGHTS
from . import density
from .words import difference, percent, right


def result_files() -> list[Path]:
    """Return the result files that are stored beside the weights they describe."""
    return sorted(WEIGHTS.glob("*/results/*.json"))


def load(files: Iterable[Path]) -> list[dict[str, Any]]:
    """Return parsed result files."""
    return [json.loads(f.read_text()) for f in files]


def committed(model: str, suite: str) -> list[str]:
    """Return one sentence for each committed result of a model on a suite."""
    lines = []
    for found in load(result_files()):
        if (found["model"], found["suite"]) != (model, suite):
            continue
        share = right(found["overall"], "pictures")
        text = f"Measured on {suite} prompts, CFG {guidance(found['call'])}: {methods(found)} {share}"
        if plain := found.get("plain"):
            pairs = difference(found["paired"]["overall"])
            text += f", plain {percent(plain['overall'])}; {methods(found)} minus plain {pairs}"
        lines.append(text + ".")
    return lines


def guidance(call: Mapping[str, Any]) -> str:
    """Return the guidance scale of a call in words."""
    scale = call.get("guidance_scale", 1.0)
    return f"{scale:g}" if scale > 1 else "off"


def methods(found: Mapping[str, Any]) -> str:
    """Return the names of the methods of a result, with those that stayed dense marked."""
    idle = density.idle(found.get("sites", {}))
    names = [f"{m['name']} (stayed dense)" if m["name"] in idle else m["name"] for m in found["methods"]]
    return "+".join(names) or "plain"
