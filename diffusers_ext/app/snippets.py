"""Write what a visitor made as a command, as Python and as a job file; each makes the same pictures."""

from __future__ import annotations

import dataclasses
import json
import shlex
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..settings.assign import settable, written
from ..settings.methods import PLAIN, method_class
from .asked import Asked

FLAGS = {
    "num_inference_steps": "--steps",
    "guidance_scale": "--guidance-scale",
    "true_cfg_scale": "--true-cfg-scale",
    "height": "--height",
    "width": "--width",
    "num_frames": "--num-frames",
    "negative_prompt": "--negative",
}


@dataclass(frozen=True, slots=True)
class Source:
    """A request with a seed, and what a snippet of it needs to know of the server.

    `model` is the name for users of the snippet, and `known` the settings of its preset by method. `device`
    and `dtype` are those of the pipeline, `None` where another machine may choose. A `clip` has frames.
    """

    asked: Asked
    model: str
    known: Mapping[str, Mapping[str, Any]]
    device: str = "cpu"
    dtype: str | None = None
    clip: bool = False

    @property
    def names(self) -> list[str]:
        """The methods in their order."""
        return [table["name"] for table in self.asked.methods]

    def own(self, name: str) -> dict[str, Any]:
        """Return the settings of a method that are not those of the preset."""
        (table,) = (table for table in self.asked.methods if table["name"] == name)
        return {key: value for key, value in table.items() if key != "name"}

    def changed(self, name: str) -> dict[str, Any]:
        """Return all settings of a method that are not the defaults of its class."""
        usual = {f.name: f.default for f in dataclasses.fields(method_class(name))}
        merged = {**self.known.get(name, {}), **self.own(name)}
        return {key: value for key, value in merged.items() if value != usual[key]}


def command(source: Source) -> str:
    """Write the line for a shell: `compare` where there are methods, else `generate`.

    `compare` takes no number of frames, so clips of another length are two lines of `generate`.
    """
    names, asked = source.names, source.asked
    if names and "num_frames" not in asked.call:
        own = ["--methods", f"{PLAIN},{'+'.join(names)}", *_set(source), "--seeds", str(asked.seed)]
        return _line(source, "compare", own)
    plain = _line(source, "generate", ["--seed", str(asked.seed)])
    if not names:
        return plain
    own = [word for name in names for word in ("--method", name)]
    return f"{plain}\n{_line(source, 'generate', [*own, *_set(source), '--seed', str(asked.seed)])}"


def python(source: Source) -> str:
    """Write a script that makes the plain picture and the one with methods, or the two clips."""
    asked, clip = source.asked, source.clip
    load = [_py(source.model), *([f"dtype=torch.{source.dtype}"] if source.dtype else [])]
    to = "" if source.device == "cpu" else f".to({_py(source.device)})"
    call = [_py(asked.prompt), f"generator=torch.Generator().manual_seed({asked.seed})"]
    call += [f"{key}={_py(value)}" for key, value in asked.call.items()]
    call += ['output_type="pil"'] if clip else []
    save = 'export_to_gif({0}, "{0}.gif", fps=8)' if clip else '{0}.save("{0}.png")'
    methods = [_constructor(source, name) for name in source.names]
    lines = ["from dataclasses import replace", ""] if any(m.startswith("replace") for m in methods) else []
    lines += ["import torch", *(["from diffusers.utils import export_to_gif"] if clip else []), ""]
    lines += ["import diffusers_ext as dx", "", f"pipe = dx.load({', '.join(load)}){to}", "", ""]
    lines += ["def draw():", "    return pipe(", *(f"        {argument}," for argument in call)]
    lines += [f"    ).{'frames' if clip else 'images'}[0]", "", "", "plain = draw()", save.format("plain")]
    if methods:
        lines += [f"with dx.apply(pipe, {', '.join(methods)}) as session:", "    changed = draw()"]
        lines += [save.format("changed"), "print(session.report())"]
    return "\n".join(lines) + "\n"


def job(source: Source) -> str:
    """Write a job file for `diffusers-ext run`, with the plain picture and the one with methods."""
    asked = source.asked
    # TOML has no null. Where one replaces what is known, all settings are written out.
    explicit = any(value is None for name in source.names for value in source.own(name).values())
    tables = {name: source.changed(name) if explicit else source.own(name) for name in source.names}
    for name, table in tables.items():
        if empty := [key for key, value in table.items() if _has_null(value)]:
            return f"# A job file has no null, as in {empty[0]} of {name}; take the command line or Python.\n"
    lines = ["# Run it with: diffusers-ext run compare.toml", "[model]", f"name = {_toml(source.model)}"]
    lines += [f"dtype = {_toml(source.dtype)}"] if source.dtype else []
    lines += ["preset = false"] if explicit else []
    lines += ["", "[call]", *_keys(asked.call)] if asked.call else []
    for name, table in tables.items():
        lines += ["", "[[method]]", f"name = {_toml(name)}", *_keys(table)]
    lines += ["", "[prompts]", f"texts = [{_toml(asked.prompt)}]", f"seeds = [{asked.seed}]"]
    if source.names:
        lines += ["", "[grid]", f"method = {_toml([PLAIN, '+'.join(source.names)])}"]
    return "\n".join(lines) + "\n"


def _line(source: Source, name: str, own: list[str]) -> str:
    words = ["diffusers-ext", name, "--model", source.model, *own]
    words += [word for key, value in source.asked.call.items() for word in (FLAGS[key], str(value))]
    words += ["--dtype", source.dtype] if source.dtype else []
    return shlex.join([*words, "--", source.asked.prompt])  # a prompt may begin with a dash


def _set(source: Source) -> list[str]:
    words = []
    for name in source.names:
        hints = typing.get_type_hints(method_class(name))
        for key, value in source.own(name).items():
            words += ["--set", f"{name}.{key}={written(value, hints[key])}"]
    return words


def _constructor(source: Source, name: str) -> str:
    if _needs_preset(source, name):
        preset = f"dx.preset(pipe, {_py(name)})"
        return f"replace({preset}, {_settings(source.own(name))})" if source.own(name) else preset
    return f"dx.{method_class(name).__name__}({_settings(source.changed(name))})"


def _needs_preset(source: Source, name: str) -> bool:
    """Return whether the preset has the path of a file, which is another one for each user."""
    facts, own = settable(method_class(name)), source.own(name)
    pairs = source.known.get(name, {}).items()
    return any(facts[k].metadata["file"] and isinstance(v, str) and k not in own for k, v in pairs)


def _settings(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={_py(value)}" for key, value in values.items())


def _keys(values: Mapping[str, Any]) -> list[str]:
    return [f"{key} = {_toml(value)}" for key, value in values.items()]


def _has_null(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_has_null, value.values()))
    return value is None or (isinstance(value, (list, tuple)) and any(map(_has_null, value)))


def _py(value: Any) -> str:
    """Write a value as Python, texts in double quotes."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_py(k)}: {_py(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        inner = ", ".join(map(_py, value))
        return f"[{inner}]" if isinstance(value, list) else f"({inner},)"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_toml(str(k))} = {_toml(v)}" for k, v in value.items()) + " }"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_toml, value))}]"
    # JSON writes texts as TOML does, but for the character DEL.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
