"""All that shapes a picture, as one record. It names the file, is stored in it, and marks it finished."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..outputs.files import slug
from ..outputs.record import versions
from ..settings import as_dict
from .generate import Item

# Packages whose versions move pixels; a later one makes its pictures beside the earlier ones.
_MOVING = ("diffusers_ext", "torch", "diffusers", "transformers")
# `model` is left out: the same weights under another name or path make the same picture.
_SHAPING = (
    *("prompt", "seed", "pipeline", "weights", "configs", "methods", "call", "dtype", "device"),
    *("versions", "fps"),
)


def shared(pipe: Any, model: str, methods: Sequence[Any], call: Mapping[str, Any]) -> dict[str, Any]:
    """What the pictures of one run have in common. Reads the model's files, large ones in part."""
    from ..commands.eval import model_folder
    from .weights import configs, quick

    home = model_folder(model)
    return {
        "model": model,
        "pipeline": type(pipe).__name__,
        "weights": quick(home),
        "configs": configs(home),
        "dtype": str(pipe.dtype).removeprefix("torch."),
        "device": pipe.device.type,
        "methods": [as_dict(m) for m in methods],
        "call": dict(call),
        "versions": versions(),
    }


def of(item: Item, common: Mapping[str, Any]) -> dict[str, Any]:
    """The record of one picture, JSON data."""
    record = {"prompt": item.prompt, **common, "seed": item.seed}
    return json.loads(json.dumps(record, default=str))


def shaping(record: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a record that tells its picture from others."""
    found = {key: record[key] for key in _SHAPING if record.get(key) is not None}
    found["versions"] = {k: v for k, v in record.get("versions", {}).items() if k in _MOVING}
    return found


def name(record: Mapping[str, Any]) -> str:
    """A file name without ending; it depends on all that shapes the picture, so no other setting has it."""
    text = json.dumps(shaping(record), sort_keys=True)
    mark = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"{slug(record['prompt'])}-{record['seed']}-{mark}"


def finished(path: Path, record: Mapping[str, Any]) -> dict[str, Any] | None:
    """The record beside the picture at `path`, if that picture is complete and of this record, else `None`.

    The JSON file beside a picture is written last.
    """
    if not path.is_file():
        return None
    try:
        beside = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        return beside if shaping(beside) == shaping(record) else None
    except (OSError, ValueError, AttributeError, TypeError):  # none, cut short, or of something else
        return None
