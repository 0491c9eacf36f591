"""Check what a visitor asks for, as plain data from a page, a program or a picture."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..core import nearest_names
from ..errors import MethodError
from ..sampling.call import seed_of
from ..settings.assign import settable, unknown_key
from ..settings.fields import fit
from ..settings.methods import method_class, once
from ..settings.registry import METHODS

LONGEST = 2000  # characters of a prompt
MOST_PIXELS = 2048 * 2048
MOST_STEPS = 200
MOST_FRAMES = 257
NUMBERS: Mapping[str, type] = {  # arguments of a call that a visitor may set
    "num_inference_steps": int,
    "guidance_scale": float,
    "true_cfg_scale": float,
    "height": int,
    "width": int,
    "num_frames": int,
}
KEYS = ("prompt", "negative_prompt", "model", "methods", "call", "seed")


@dataclass(frozen=True)
class Asked:
    """One picture that a visitor asks for.

    `methods` are tables with a `name` and settings; what a table leaves out comes from the preset of the
    model. `call` holds the arguments that differ from the model's own. A `seed` of `None` is drawn.
    """

    prompt: str
    model: str
    methods: tuple[Mapping[str, Any], ...] = ()
    call: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None

    @classmethod
    def of(cls, data: Any) -> Asked:
        """Read plain data, as a share link or a program sends it.

        Raises `ValueError` in one sentence for unknown keys, wrong types, settings that no method has, and
        the path of a file, which a visitor may not name.
        """
        if not isinstance(data, Mapping):
            raise MethodError(f"settings are a table of names and values, got {_brief(data)}.")
        if unknown := [str(key) for key in data if key not in KEYS]:
            best = nearest_names(unknown[0], KEYS, count=1)[0]
            raise MethodError(
                f"settings have no {unknown[0]!r}; nearest is {best!r}, valid are {', '.join(KEYS)}."
            )
        call = dict(_table(data.get("call") or {}, "call"))
        if data.get("negative_prompt"):
            call["negative_prompt"] = _text(data["negative_prompt"], "the negative prompt")
        seed = data.get("seed")
        return cls(
            prompt=_text(data.get("prompt", ""), "the prompt"),
            model=_text(data.get("model", ""), "the model"),
            methods=_methods(data.get("methods") or []),
            call=_call(call),
            seed=None if seed in (None, "", -1, "-1") else seed_of(_whole(seed)),
        )

    def to_data(self) -> dict[str, Any]:
        """Return what `of` reads."""
        call = dict(self.call)
        negative = call.pop("negative_prompt", None)
        found: dict[str, Any] = {"prompt": self.prompt, "model": self.model}
        if negative:
            found["negative_prompt"] = negative
        found |= {"methods": [dict(m) for m in self.methods], "call": call}
        return found | ({} if self.seed is None else {"seed": self.seed})

    def with_seed(self, seed: int) -> Asked:
        """Return the same with a seed."""
        return dataclasses.replace(self, seed=seed)

    def check(self) -> None:
        """Raise `MethodError` for an empty prompt, and for what would hold the server for hours."""
        if not self.prompt.strip():
            raise MethodError('write a prompt, such as "a red circle and a blue square"; got an empty one.')
        check_size(self.call)

    def build(self, known: Mapping[str, Mapping[str, Any]]) -> tuple[Any, ...]:
        """Build the methods; `known` has the settings of the model's preset by method.

        Raises `MethodError` for values that are out of bounds.
        """
        made = []
        for table in self.methods:
            own = {key: value for key, value in table.items() if key != "name"}
            made.append(method_class(table["name"])(**{**known.get(table["name"], {}), **own}))
        return tuple(made)


def check_size(call: Mapping[str, Any]) -> None:
    """Raise `MethodError` for sizes and steps that would hold the server for hours."""
    height, width = call.get("height") or 1, call.get("width") or 1
    if height * width > MOST_PIXELS or max(height, width) > 4096:
        raise MethodError(f"a picture has up to 2048 x 2048 px here, got {height} x {width}; ask for less.")
    if (steps := call.get("num_inference_steps") or 1) > MOST_STEPS:
        raise MethodError(f"a picture takes up to {MOST_STEPS} steps here, got {steps}; 15 to 50 is usual.")
    if (frames := call.get("num_frames") or 1) > MOST_FRAMES:
        raise MethodError(f"a clip has up to {MOST_FRAMES} frames here, got {frames}; ask for fewer.")


def without_paths(tables: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return settings of methods and samplers for what leaves the server: of a path, the name stays.

    Visitors name no files, but the operator's settings for a model may.
    """
    found = []
    for table in tables:
        known = settable(method_class(table["name"])) if table["name"] in METHODS else {}
        files = {name for name, facts in known.items() if facts.metadata.get("file")}
        found.append({k: Path(v).name if k in files and isinstance(v, str) else v for k, v in table.items()})
    return found


def _methods(given: Any) -> tuple[Mapping[str, Any], ...]:
    if not isinstance(given, Sequence) or isinstance(given, (str, bytes)):
        raise MethodError(f"methods is a list of names or tables, got {_brief(given)}.")
    tables = []
    for entry in given:
        table = {"name": entry} if isinstance(entry, str) else _table(entry, "a method")
        name = table.get("name")
        if not isinstance(name, str):
            raise MethodError(f"a method is a table with a name, got {_brief(entry)}.")
        cls = method_class(name)
        hints, values = typing.get_type_hints(cls), {}
        for key, value in table.items():
            if key == "name":
                continue
            if key not in settable(cls):
                raise MethodError(f"{unknown_key(str(key), {name: cls})}.")
            values[key] = _setting(cls, name, key, value, hints[key])
        tables.append({"name": name, **values})
    once([table["name"] for table in tables])
    return tuple(tables)


def _setting(cls: type, name: str, key: str, value: Any, hint: Any) -> Any:
    if settable(cls)[key].metadata.get("file") and isinstance(value, str):
        raise MethodError(
            f"{name} {key} may name a file on the command line alone, got {_brief(value)}; give its content."
        )
    return fit(value, hint, f"{name} {key}")


def _call(given: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in given.items():
        if value is None:
            continue
        if name == "negative_prompt":
            found[name] = value
        elif name in NUMBERS:
            found[name] = fit(_number(value), NUMBERS[name], name)
        else:
            valid = ", ".join(NUMBERS)
            raise MethodError(f"a call has no {_brief(name)} here; valid are {valid}.")
    return found


def _number(value: Any) -> Any:
    """Return a number without a fraction as a whole one, as JavaScript sends it."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _whole(value: Any) -> Any:
    return _number(value) if not isinstance(value, bool) else str(value)


def _table(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise MethodError(f"{what} is a table of names and values, got {_brief(value)}.")
    return value


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise MethodError(f"{what} is a text, got {_brief(value)}.")
    if len(value) > LONGEST:
        raise MethodError(f"{what} may have {LONGEST} characters, got {len(value)}; make it shorter.")
    if "\0" in value:
        raise MethodError(f"{what} holds a NUL character; remove it.")
    if any("\ud800" <= letter <= "\udfff" for letter in value):
        raise MethodError(f"{what} holds half of a character, a lone surrogate; remove it.")
    return value


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
