"""Run `methods`, `samplers`, `families` and `doctor`: list what there is, and what can run here."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from typing import Annotated, Any

import typer

from .options import Json


def methods(
    names: Annotated[
        list[str] | None, typer.Argument(help="Methods to show. By default all of them.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List methods with their settings, defaults, ranges and units."""
    from ..settings.registry import METHODS

    _show([describe_method(name) for name in names or METHODS], as_json)


def samplers(
    names: Annotated[
        list[str] | None, typer.Argument(help="Samplers to show. By default all of them.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List samplers with their settings. All take a budget, seconds and micro_batch, too."""
    from ..settings.registry import SAMPLERS
    from ..settings.samplers import main_count, named

    found = []
    for name in names or SAMPLERS:
        cls = named(name).cls
        count = main_count(cls)
        found.append({**describe(name, cls, shared=names is not None), **({"count": count} if count else {})})
    _show(found, as_json)


def _show(found: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    for one in found:
        typer.echo(f"{one['name']}: {one['doc']}")
        width = max((len(s["name"]) for s in one["settings"]), default=0)
        for s in one["settings"]:
            limits = f", from {s['low']:g}" if s["low"] is not None else ""
            limits += f" to {s['high']:g}" if s["high"] is not None else ""
            unit = f" [{s['unit']}{limits}]" if s["unit"] else ""
            typer.echo(f"  {s['name']:<{width}} = {s['default']!s:<10} {s['help']}{unit}")
        if "count" in one:
            typer.echo(f"  a number in the name sets {one['count']}, as {_counted(one['name'])}")


def _counted(name: str) -> str:
    return f"{name.removesuffix('-n')}-8"


def describe_method(name: str) -> dict[str, Any]:
    """Return name, first line of the docstring and settings of one method, as plain data."""
    from ..settings.methods import method_class

    return describe(name, method_class(name))


def describe(name: str, cls: type, shared: bool = True) -> dict[str, Any]:
    """Return the same of any class of settings; without those that are `shared` by all of its kind."""
    from typing import get_type_hints

    from ..settings import fields as words
    from ..settings.assign import settable

    base = [c for c in cls.__mro__ if is_dataclass(c)][-1]
    left_out = set() if shared or base is cls else {f.name for f in fields(base)}
    hints = get_type_hints(cls)
    settings = []
    for f in settable(cls).values():
        if f.name in left_out:
            continue
        facts = {k: f.metadata.get(k) for k in ("unit", "low", "high", "help")}
        default = f.default if isinstance(f.default, int | float | str | None) else str(f.default)
        settings.append({"name": f.name, "type": words.describe(hints[f.name]), "default": default, **facts})
    return {"name": name, "doc": (cls.__doc__ or "").strip().splitlines()[0], "settings": settings}


def families(as_json: Json = False) -> None:
    """List the denoiser classes that methods work on, and the diffusers pipelines with them."""
    found = known_families()
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    for cls, facts in found.items():
        guidance = {"batch": "one batch", "two_calls": "two calls"}[facts["cfg"]]
        typer.echo(f"{cls}  (family {facts['family']}; classifier-free guidance in {guidance})")
        for pipeline in facts["pipelines"]:
            typer.echo(f"  {pipeline}")


def known_families() -> dict[str, dict[str, Any]]:
    """Return for each denoiser class its family, how it is guided, and the pipelines that take it."""
    from importlib import import_module

    from ..families import FAMILIES

    takers = _pipelines()
    found = {}
    for cls, target in FAMILIES.items():
        module, name = target.split(":")
        family = getattr(import_module(module), name)
        pipelines = takers.get(cls) or _in_folder(family.name, cls)
        found[cls] = {"family": family.name, "cfg": family.cfg, "pipelines": pipelines}
    return found


def _pipelines() -> dict[str, list[str]]:
    """Map the name of a denoiser class to the names of diffusers' pipelines that take text and use it."""
    import re

    from diffusers.pipelines import auto_pipeline

    tables = [
        getattr(auto_pipeline, t) for t in dir(auto_pipeline) if re.fullmatch(r"AUTO_TEXT2\w+_MAPPING", t)
    ]
    found: dict[str, set[str]] = {}
    for pipeline in {cls for table in tables for cls in table.values()}:
        for cls in _models(pipeline):
            found.setdefault(cls, set()).add(pipeline.__name__)
    return {cls: sorted(names) for cls, names in found.items()}


def _in_folder(family: str, cls: str) -> list[str]:
    """List pipelines with the denoiser `cls` in the folder of their family, if diffusers has no table."""
    from importlib import import_module

    folder = import_module(f"diffusers.pipelines.{family}")
    names = sorted(name for name in dir(folder) if name.endswith("Pipeline"))
    return [name for name in names if cls in _models(getattr(folder, name))]


def _models(pipeline: type) -> set[str]:
    """Return the class names of the models that the constructor of a pipeline takes."""
    import inspect
    import re

    parameters = inspect.signature(pipeline.__init__).parameters.values()
    return {
        cls for p in parameters for cls in re.findall(r"\w+(?:Model|2DModel|3DModel)\b", str(p.annotation))
    }


def doctor(as_json: Json = False) -> None:
    """Show versions, devices, attention back-ends with reasons, and the state of the models."""
    from .doctor import examine

    found = examine()
    if as_json:
        typer.echo(json.dumps([asdict(f) for f in found], indent=2))
    else:
        width = max(len(f.name) for f in found)
        section = None
        for f in found:
            if f.section != section:
                section = f.section
                typer.echo(f"{section}")
            typer.echo(f"  {f.state:<7}  {f.name:<{width}}  {f.text}")
    if any(f.state == "broken" for f in found):
        raise typer.Exit(1)
