"""Make a row from the named values of a line, a table or a JSON object, and say what is wrong with them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from ...settings.fields import fit
from ..rows import Row

PROMPTS = ("prompt", "prompts", "caption", "text")  # names of the prompt; the first that is there counts
ARGUMENTS = MappingProxyType(
    {
        "negative_prompt": str,
        "num_inference_steps": int,
        "guidance_scale": float,
        "true_cfg_scale": float,
        "height": int,
        "width": int,
        "num_frames": int,
    }
)
# The names that other tools use.
ALIASES = MappingProxyType(
    {
        "negative": "negative_prompt",
        "steps": "num_inference_steps",
        "cfg": "guidance_scale",
        "cfg_scale": "guidance_scale",
        "frames": "num_frames",
    }
)
KNOWN = (*PROMPTS, "seed", "size", "id", "meta", *ARGUMENTS, *ALIASES)
_UNPAIRED = frozenset(map(chr, range(0xD800, 0xE000)))
_ALIKE = 0.85  # similarity from which an unknown name passes for a slip; weight and height are below


@dataclass(frozen=True, slots=True)
class Bad:
    """A place of a file that is no row; `reason` is the end of a sentence that begins with `source`."""

    source: str
    reason: str


Entry = Row | Bad


class RowError(ValueError):
    """Raised inside readers for a line that is no row; it becomes a `Bad`."""


def entry(index: int, values: Mapping[str, Any], source: str, *, loose: bool = False) -> Entry:
    """Return the row that named values make, or what is wrong with them.

    Unknown names are refused. `loose` is for tables: unknown names become facts of the row, texts are read as
    numbers where numbers belong, and empty ones do not count.
    """
    try:
        return _row(index, values, source, loose)
    except RowError as error:
        return Bad(source, str(error))


def check_prompt(prompt: Any) -> str:
    """Return the prompt; raises `RowError` for what is no text, and for NUL and lone surrogates."""
    if not isinstance(prompt, str):
        raise RowError(f"has a prompt that is no text, got {prompt!r}; put it in quotes")
    if "\0" in prompt:
        raise RowError("has the character NUL in its prompt; remove it")
    if not _UNPAIRED.isdisjoint(prompt):
        raise RowError("has half of a character in its prompt, a lone surrogate; remove it")
    return prompt


def slip(name: str, alike: float = _ALIKE) -> str | None:
    """Return the known name that an unknown one nearly is, or `None`."""
    return next(iter(difflib.get_close_matches(name.lower(), KNOWN, 1, alike)), None)


def _row(index: int, values: Mapping[str, Any], source: str, loose: bool) -> Row:
    found = {key.strip().lower(): value for key, value in values.items()}
    if len(found) < len(values):
        raise RowError(f"names a key twice, in upper and lower case: {names(values)}")
    found = {key: value for key, value in found.items() if not (loose and value in ("", None))}
    name = next((name for name in PROMPTS if name in found), None)
    if name is None:
        near = next((f"; {key!r} is nearly {slip(key)!r}" for key in found if slip(key) in PROMPTS), "")
        raise RowError(f"has no prompt, which is named {either(PROMPTS)}{near}")
    prompt = check_prompt(found.pop(name))
    meta = dict(_object(found.pop("meta", {}), loose))
    seed = _seed(found.pop("seed", None), loose)
    if "id" in found:
        meta["id"] = found.pop("id")
    call: dict[str, Any] = {}
    if "size" in found:
        call["width"], call["height"] = _size(found.pop("size"))
    for key, value in found.items():
        argument = ALIASES.get(key, key)
        if argument in call:
            raise RowError(f"sets {argument} twice; leave one of them out")
        if argument in ARGUMENTS:
            call[argument] = _fitted(key, value, ARGUMENTS[argument], loose)
        elif loose:
            meta[key] = value
        elif key in PROMPTS:
            raise RowError(f"has two prompts, {name!r} and {key!r}; leave one of them out")
        else:
            raise RowError(_unknown(key))
    return Row(index, prompt, seed, call, meta, source)


def _unknown(key: str) -> str:
    near = slip(key, 0.7)
    hint = f"; nearest is {near!r}" if near else "; facts of your own belong under 'meta'"
    return f"has an unknown key {key!r}{hint}, valid are {', '.join(KNOWN)}"


def _object(value: Any, loose: bool) -> Mapping[str, Any]:
    if loose and isinstance(value, str):
        return {"meta": value}
    if not isinstance(value, Mapping):
        raise RowError(f"has facts under 'meta' that are no object, got {value!r}")
    return value


def _fitted(key: str, value: Any, hint: type, text: bool) -> Any:
    if text and hint is not str:
        with suppress(ValueError):
            value = hint(value)
    try:
        return fit(value, hint, key)
    except ValueError as error:
        raise RowError(f"is wrong: {error}") from error


def _seed(value: Any, text: bool) -> int | None:
    if value is None:
        return None
    from ...sampling.call import seed_of

    try:
        return seed_of(_fitted("seed", value, int, text))
    except RowError:
        raise
    except ValueError as error:
        raise RowError(f"is wrong: {error}") from error


def _size(value: Any) -> tuple[int, int]:
    """Read `512x768`, width first, as other tools write it."""
    parts = str(value).lower().replace("×", "x").split("x")
    if len(parts) != 2 or not all(part.strip().isdecimal() and len(part) < 9 for part in parts):
        raise RowError(f"is wrong: size takes WIDTHxHEIGHT in px, got {value!r}; for example 512x768")
    return int(parts[0]), int(parts[1])


def either(given: Sequence[str]) -> str:
    """Write names with "or" before the last, for sentences."""
    return f"{', '.join(given[:-1])} or {given[-1]}"


def names(given: Iterable[str]) -> str:
    """Write names one after the other, for sentences."""
    return ", ".join(map(repr, given)) or "none"
