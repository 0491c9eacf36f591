"""Read what is known of common models: token geometry and settings of methods, a TOML file for each model.

Tuned settings are stored beside the weights as `METHOD.json`. They take precedence over those of the TOML
file. Paths in settings are relative to the folder of the file that holds them.
"""

import json
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_type_hints

from ..core import Method, nearest_names
from ..errors import MethodError
from ..settings.fields import fit
from ..settings.methods import build, checked, method_class
from ..settings.registry import METHODS
from .sizes import Tokens, of_pipeline

FOLDER = Path(__file__).parent / "preset_files"
# Words in the name of a checkpoint that do not make it another model: formats and precisions.
FORMATS = ("diffusers", "bf16", "fp16", "fp32", "fp8", "int8", "8bit", "int4", "4bit", "nf4", "bnb", "gguf")


@dataclass(frozen=True)
class Preset:
    """The names of a model, how it cuts pictures into tokens if known, and the settings of each method."""

    name: str
    names: tuple[str, ...] = ()
    tokens: Tokens | None = None
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def preset(target: Any, method: str) -> Method:
    """Build a method, by its name on the command line, with the settings for a model.

    For example `preset(pipe, "softpag")`.

    `target` is a pipeline that was loaded by name. It can also be the name of a preset, a zoo model, a
    checkpoint, a folder or a TOML file. Raises `ValueError` if nothing is known of the model, or of the
    method.
    """
    if not isinstance(method, str):
        raise MethodError(f"preset() takes the name of a method, got {method!r}; for example 'softpag'.")
    method_class(method)  # refuses an unknown name, whatever is known of the model
    (built,) = build([method], preset=of_model(target).settings)
    return built


def tokens_of(target: Any, method: Method | None = None) -> Tokens:
    """Return how a preset, a checkpoint or a pipeline cuts its pictures, as `of_pipeline` does.

    Raises `MethodError` for an unknown name.
    """
    if isinstance(target, (str, os.PathLike)):
        name = os.fspath(target)
        if (found := of_name(name)) is None:
            raise MethodError(f"Unknown preset {name!r}; {_nearest(name)}: or pass a pipeline or a Grid.")
        return found.tokens
    if not hasattr(target, "components"):
        raise MethodError(
            f"A plan is made for a pipeline, a preset ({', '.join(shipped())}) or a Grid, got "
            f"{type(target).__name__}; a bare denoiser does not tell what a pixel is."
        )
    return of_pipeline(target, method)


def of_model(target: Any, folder: Path | None = None) -> Preset:
    """Return what `known` does; if that is `None`, raise `MethodError` naming presets to take instead."""
    name = _name(target)
    if (found := known(name, folder)) is not None:
        return found
    if (kin := _within(Path(name).name)) is not None:
        raise MethodError(
            f"The settings of {kin.name!r} are not known to hold for the model {name!r}; take them all "
            f"the same with preset({kin.name!r}, METHOD) in Python, or, on the command line, give "
            "settings with --set in place of --preset, or write them as METHOD.json into the folder of "
            'the model, as {"settings": {...}}, which is read by default.'
        )
    raise MethodError(
        f"No preset fits the model {name!r}; {_nearest(name)}: give settings one by one, or, if it was made "
        "from one of these, take its settings with preset(NAME, METHOD) in Python."
    )


def known(target: Any, folder: Path | None = None) -> Preset | None:
    """Return the preset of a model, as `preset` takes it, or `None`. `folder` holds the weights, if known.

    All words of the name are compared except those of the format: `org/Wan2.1-T2V-14B-Diffusers` is `wan2.1`,
    and the 1.3B is another model. A method with settings beside the weights takes only those. Raises
    `MethodError` for files that cannot be read.
    """
    name = _name(target)
    tuned = _tuned(_folder(name) if folder is None else folder)
    found = of_name(name)
    if found is None and not tuned:
        return None
    found = found or Preset(Path(name).name)
    return replace(found, settings={**found.settings, **tuned})


def _name(target: Any) -> str:
    if isinstance(target, (str, os.PathLike)):
        return os.fspath(target)
    if name := getattr(target, "name_or_path", None):
        return name
    raise MethodError(
        f"{type(target).__name__} was not loaded by name and does not tell which model it is; pass a preset "
        f"({', '.join(shipped())})."
    )


def _folder(name: str) -> Path | None:
    from ..zoo import catalogue

    if name in catalogue.MODELS:
        return catalogue.path(name)
    return Path(name) if Path(name).is_dir() else None


def _tuned(folder: Path | None) -> dict[str, dict[str, Any]]:
    """Read settings by method from `METHOD.json`, as `diffusers-ext tune` writes it."""
    files = {name: folder / f"{name}.json" for name in METHODS} if folder else {}
    return {name: _settings(name, _written(path), path) for name, path in files.items() if path.is_file()}


def _written(path: Path) -> Any:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise MethodError(f"{path} is no JSON in UTF-8 ({error}); tune again, or delete it.") from error
    return data.get("settings") if isinstance(data, dict) else None


def of_name(name: str) -> Preset | None:
    """Return what `find` does, or the preset named like a checkpoint, apart from words of the format."""
    if (path := _files().get(name.lower())) is not None:
        return read(path)  # alone: every other file would be read for nothing
    presets = shipped()
    words = tuple(word for word in _words(Path(name).name) if word not in FORMATS)
    checkpoint = (p for p in presets.values() if words in map(_words, (p.name, *p.names)))
    return find(name, presets) or next(checkpoint, None)


def _within(text: str) -> Preset | None:
    """Return the preset with the longest of the names that occur in `text`, word by word."""
    words = _words(text)
    names = {_words(name): p for p in shipped().values() for name in (p.name, *p.names)}
    runs = {words[a:b] for a in range(len(words)) for b in range(a + 1, len(words) + 1)}
    return names[max(met, key=len)] if (met := runs & names.keys()) else None


def _nearest(name: str) -> str:
    names = shipped()
    return f"the presets are {', '.join(names)}, nearest is {nearest_names(name.lower(), names, 1)[0]!r}"


def _words(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"[a-z0-9.]+", text.lower()))


def find(name: str, presets: Mapping[str, Preset] | None = None) -> Preset | None:
    """Return the preset of that name, or the one in a file `*.toml`; `None` if there is none.

    `presets` are those of the package, if they were read before.
    """
    if name.endswith(".toml"):
        return read(Path(name))
    presets = shipped() if presets is None else presets
    return next((p for p in presets.values() if name.lower() in (p.name, *p.names)), None)


def shipped() -> dict[str, Preset]:
    """Read the presets of the package by name."""
    return {name: read(path) for name, path in _files().items()}


def _files() -> dict[str, Path]:
    return {path.stem: path for path in sorted(FOLDER.glob("*.toml"))}


def read(path: Path) -> Preset:
    """Read one file: `names`, the table `tokens`, and a table for each method.

    Raises `MethodError`, naming the file, for what it cannot mean.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MethodError(
            f"The preset file {path} cannot be read ({error.strerror}); {_nearest(path.stem)}."
        ) from error
    except ValueError as error:
        raise MethodError(f"The preset file {path} is no TOML in UTF-8: {error}.") from error
    known = ["names", "tokens", *METHODS]
    for key in data:
        if key not in known:
            raise MethodError(
                f"{path}: there is no method {key!r}; nearest is {nearest_names(key, known, 1)[0]!r}, valid "
                f"are names, tokens, {', '.join(METHODS)}."
            )
    names = tuple(_fit(data.pop("names", []), list[str], f"{path}: names"))
    tokens = _tokens(data.pop("tokens", None), path)
    settings = {method: _settings(method, table, path) for method, table in data.items()}
    return Preset(path.stem, names, tokens, settings)


def _tokens(table: Any, path: Path) -> Tokens:
    hints = get_type_hints(Tokens)
    least = [f.name for f in fields(Tokens) if f.default is MISSING]
    if not isinstance(table, dict) or (missing := [key for key in least if key not in table]):
        raise MethodError(
            f"{path}: the table [tokens] needs {', '.join(least)}, got "
            f"{f'no {missing[0]}' if isinstance(table, dict) else 'none'}."
        )
    for key, value in table.items():
        if key not in hints:
            closest = nearest_names(key, hints, 1)[0]
            raise MethodError(f"{path}: tokens has no {key!r}; nearest is {closest!r}.")
        low = 0 if key in ("frames", "text", "levels", "unit_px", "most") else 1
        fitted = _fit(value, hints[key], f"{path}: tokens.{key}")
        if fitted == [] or min(fitted if isinstance(fitted, list) else [fitted]) < low:
            raise MethodError(f"{path}: tokens.{key} must be {low} or more, got {value}.")
        if key == "most" and len(fitted) != 3:
            raise MethodError(
                f"{path}: tokens.most has one number each for time, height and width, got {value}."
            )
    return Tokens(**{key: tuple(value) if isinstance(value, list) else value for key, value in table.items()})


def _fit(value: Any, hint: Any, key: str) -> Any:
    try:
        return fit(value, hint, key)
    except ValueError as error:
        raise MethodError(f"{error}.") from error


def _settings(method: str, table: Any, path: Path) -> dict[str, Any]:
    if not isinstance(table, dict):
        raise MethodError(f"{path}: the settings of {method} are a table of keys and values, got {table!r}.")
    try:
        settings = checked(method, table, str(path))
    except ValueError as error:
        raise MethodError(f"{error}.") from error
    for f in fields(method_class(method)):
        if f.metadata.get("file") and isinstance(settings.get(f.name), str):
            settings[f.name] = str(path.parent / Path(settings[f.name]).expanduser())
    try:
        method_class(method)(**settings)
    except ValueError as error:
        raise MethodError(f"{path}: {error}") from error
    return settings
