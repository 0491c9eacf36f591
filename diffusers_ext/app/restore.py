"""Read settings back from a picture or clip. Pixels are not decoded, so no file can fill the memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import MethodError
from ..outputs.parameters import parse
from ..outputs.record import sources
from ..settings.registry import SAMPLERS
from .asked import NUMBERS, Asked
from .models import Models, label

# What other tools call the settings that are known here, in the text `parameters`.
_NAMES = {"Steps": "num_inference_steps", "CFG scale": "guidance_scale"}


def read(path: str | Path, models: Models, otherwise: str) -> Asked:
    """Return what a file was made from; a file of another tool has the model `otherwise`.

    Raises `ValueError` in one sentence for files without settings, for those that only a search makes, and as
    `Asked.of` and `Models.resolve` do.
    """
    path = Path(path)
    try:
        record, block, _ = sources(path)
    except (ValueError, OSError) as error:  # it names the file of the server
        raise MethodError(str(error).replace(str(path), path.name)) from None
    if record is not None:
        return _of_record(record, models)
    if block is None:
        raise MethodError(
            f"{path.name!r} holds no settings; drop a picture as this page, generate or compare wrote it."
        )
    return _of_block(block, otherwise)


def _of_record(record: Mapping[str, Any], models: Models) -> Asked:
    methods, call, model = (record.get(key) for key in ("methods", "call", "model"))
    if not (isinstance(methods, list) and isinstance(call, Mapping) and isinstance(model, str)):
        raise MethodError("the record of this file was changed, so its settings cannot be read.")
    for entry in methods:
        if isinstance(entry, Mapping) and entry.get("name") in SAMPLERS:
            raise MethodError(
                f"this file was made by a search ({entry['name']}), and Compare makes single pictures; run "
                "the search in the tab Search."
            )
    name = model if model in models.names() or label(model) not in models.names() else label(model)
    checkpoint = models.resolve(name)
    usual = checkpoint.call
    # The record has all arguments; those of the model itself need not be set again.
    own = {key: value for key, value in call.items() if usual.get(key) != value}
    if others := [key for key in own if key not in (*NUMBERS, "negative_prompt")]:
        raise MethodError(
            f"this file was made with {others[0]}, which this page does not set; make it again with "
            "diffusers-ext show FILE --again."
        )
    known = {} if checkpoint.preset is None else checkpoint.preset.settings
    data = {"prompt": record.get("prompt"), "model": name, "call": own, "seed": record.get("seed")}
    return Asked.of(data | {"methods": [_own(entry, known) for entry in methods]})


def _own(entry: Any, known: Mapping[str, Mapping[str, Any]]) -> Any:
    """Return the table of a method without the files that are known for the model anyway."""
    if not isinstance(entry, Mapping):
        return entry
    usual = known.get(str(entry.get("name")), {})
    return {
        key: value
        for key, value in entry.items()
        if not (isinstance(value, str) and isinstance(usual.get(key), str) and Path(usual[key]).name == value)
    }


def _of_block(block: str, model: str) -> Asked:
    prompt, negative, facts = parse(block)
    call = {ours: _number(facts[theirs]) for theirs, ours in _NAMES.items() if theirs in facts}
    data = {"prompt": prompt, "negative_prompt": negative, "model": model, "call": call}
    return Asked.of(data | {"seed": facts.get("Seed")})


def _number(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
