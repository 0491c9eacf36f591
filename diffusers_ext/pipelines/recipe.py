"""Define a recipe: the name of a model, methods, a sampler and arguments of the call, as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .._version import __version__
from ..errors import MethodError
from ..sampling.call import SINGLE
from ..settings.methods import method_class
from ..settings.registry import METHODS
from . import sampler_data
from .plain import fitted, only, plain, settings_of

VERSION = 1
KEYS = ("recipe", "model", "pipeline", "call", "methods", "sampler", "written_by")


@dataclass(frozen=True)
class Recipe:
    """All that makes a pipeline: the name of a model, methods, a sampler, and default arguments of the call.

    `model` is a name of the zoo, a folder or a Hub id. `pipeline` is the class of its pipeline, as a note.
    `call` holds arguments as `pipe(...)` takes them. Rewards and networks of the sampler are kept by name or
    path.
    """

    model: str
    methods: tuple[Any, ...] = ()
    sampler: Any = None
    call: Mapping[str, Any] = field(default_factory=dict)
    pipeline: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as plain JSON data.

        Raises `MethodError` for what a recipe cannot hold: methods, samplers and rewards without a name, and
        settings that are tensors, functions or other objects.
        """
        found: dict[str, Any] = {"recipe": VERSION, "model": self.model}
        if self.pipeline is not None:
            found["pipeline"] = self.pipeline
        if self.call:
            found["call"] = _call(self.call, "")
        found["methods"] = [_method_data(method) for method in self.methods]
        if self.sampler is not None:
            found["sampler"] = sampler_data.to_data(self.sampler)
        return found | {"written_by": f"diffusers_ext {__version__}"}


def from_dict(data: Any, source: str, folder: Path | None = None, device: Any = None) -> Recipe:
    """Build a recipe from the data of `to_dict`.

    `source` names the file in errors. Relative paths that exist in `folder` belong there: the model, and
    weights of methods and samplers. Rewards go to `device`.
    Raises `MethodError` for data of another kind or a newer version, and for unknown keys, methods, samplers,
    settings and rewards.
    """
    try:
        return _built(data, source, folder, device)
    except (ValueError, OSError) as error:
        text = str(error).rstrip(".")
        raise MethodError(f"{text}." if text.startswith(source) else f"{source}: {text}.") from error


def _built(data: Any, source: str, folder: Path | None, device: Any) -> Recipe:
    if not isinstance(data, Mapping):
        raise MethodError(f"a recipe is a table of keys and values, got {data!r}")
    version = data.get("recipe")
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise MethodError(f"a recipe has its version under the key recipe, got {version!r}; write {VERSION}")
    if version > VERSION:
        writer = f", written by {data['written_by']}" if "written_by" in data else ""
        raise MethodError(
            f"this recipe has version {version}{writer}, and diffusers_ext {__version__} reads up to "
            f"{VERSION}; update it"
        )
    only(data, KEYS, source, "a recipe")
    model, pipeline = data.get("model"), data.get("pipeline")
    if not isinstance(model, str) or not model:
        raise MethodError(f"a recipe needs the name of its model, got {model!r}; write model")
    if pipeline is not None and not (isinstance(pipeline, str) and pipeline.isidentifier()):
        raise MethodError(f"pipeline is the name of a class, got {pipeline!r}; leave it out")
    methods, sampler = data.get("methods", []), data.get("sampler")
    if not isinstance(methods, Sequence) or isinstance(methods, str):
        raise MethodError(f"methods is a list of tables, got {methods!r}")
    return Recipe(
        model=str(folder / model) if folder is not None and _is_model(folder / model) else model,
        methods=tuple(_method(entry, source, folder) for entry in methods),
        sampler=None if sampler is None else sampler_data.from_data(sampler, source, folder, device),
        call=_call(data.get("call", {}), f"{source}: "),
        pipeline=pipeline,
    )


def _is_model(folder: Path) -> bool:
    return (folder / "model_index.json").is_file()


def _call(call: Any, source: str) -> dict[str, Any]:
    if not isinstance(call, Mapping):
        raise MethodError(f"{source}call is a table of arguments, got {call!r}")
    if taken := [name for name in SINGLE if name in call]:
        raise MethodError(f"{source}{taken[0]} belongs to a single call, not to a recipe; leave it out")
    return {str(name): plain(value, f"{source}the argument {name}") for name, value in call.items()}


def _method_data(method: Any) -> dict[str, Any]:
    name = getattr(method, "name", None)
    if name not in METHODS or type(method) is not method_class(name):
        raise MethodError(
            f"a recipe names its methods, and {type(method).__name__} has no name there; the names are "
            f"{', '.join(METHODS)}."
        )
    return {"name": name, **settings_of(method)}


def _method(entry: Any, source: str, folder: Path | None) -> Any:
    row = {"name": entry} if isinstance(entry, str) else entry
    if not isinstance(row, Mapping) or not isinstance(row.get("name"), str):
        raise MethodError(f"a method is a name, or a table with its name and settings, got {entry!r}")
    cls = method_class(row["name"])
    values = {key: value for key, value in row.items() if key != "name"}
    return cls(**fitted(cls, values, source, folder))
