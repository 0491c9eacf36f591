"""Read `--recipe` and write `--save-recipe`: model, methods, sampler and arguments of a call in one file."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options as opt

if TYPE_CHECKING:
    from ..models.checkpoint import Checkpoint
    from ..pipelines.recipe import Recipe

Read = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        metavar="FILE",
        help="A recipe: a JSON or TOML file, or a folder of save_pretrained(). It gives model, methods, "
        "sampler and arguments. --model, --set and others override them.",
    ),
]
Save = Annotated[
    str | None,
    typer.Option("--save-recipe", metavar="FILE", help="Also write all but prompt and seed to a JSON file."),
]


@dataclass(frozen=True, slots=True)
class Chosen:
    """Hold what a command runs: the model, methods and a sampler, and arguments that a recipe gave.

    `settings` are those of methods and sampler for a record, and `notes` the lines on where they came from.
    """

    checkpoint: Checkpoint
    methods: tuple[Any, ...]
    sampler: Any
    call: Mapping[str, Any]
    settings: list[dict[str, Any]]
    notes: list[str]

    def save(self, path: str, pipe: Any, call: Mapping[str, Any]) -> str:
        """Write a recipe of the run, with the arguments that were asked for; return a line that says so."""
        from ..pipelines.chosen import name_of
        from ..pipelines.recipe import Recipe
        from ..pipelines.recipe_file import write

        kind = type(pipe).__name__
        recipe = Recipe(name_of(self.checkpoint), self.methods, self.sampler, call, kind)
        return f"wrote the recipe {write(recipe, path)}"


def check(path: str) -> None:
    """Raise for a name or folder that a recipe cannot be written to, before any work is done."""
    from ..pipelines.recipe_file import target

    target(path)


def chosen(
    ctx: typer.Context,
    file: str | None,
    model: str,
    names: Sequence[str],
    settings: Sequence[str],
    preset: bool | None,
    device: str | None,
) -> Chosen:
    """Return what the options of a command ask for, with or without a recipe.

    Raises `ValueError` for methods or a preset beside a recipe, which has its own.
    """
    from ..models.checkpoint import Checkpoint
    from ..settings.methods import as_dict

    if file is None:
        checkpoint = Checkpoint.resolve(model)
        methods, notes = opt.chosen(checkpoint, names, settings, preset)
        return Chosen(checkpoint, methods, None, {}, [as_dict(m) for m in methods], notes)
    from ..pipelines.recipe_file import read

    for given, option in ((names, "--method"), (preset is not None, "--preset")):
        if given:
            raise ValueError(
                f"--recipe has methods and settings of its own, got {option}; leave it out, or change "
                "settings with --set"
            )
    recipe = read(file, device)
    typed = ctx.get_parameter_source("model").name == "COMMANDLINE"
    checkpoint = Checkpoint.resolve(model if typed else recipe.model)
    methods, sampler = _with(recipe, settings)
    own = [as_dict(m) for m in methods] + ([] if sampler is None else [_sampler_facts(sampler)])
    names = [m.name for m in methods] + ([] if sampler is None else [sampler.name])
    note = f"{file}: {' + '.join(names) or 'no method'} on {checkpoint.name}"
    return Chosen(checkpoint, methods, sampler, recipe.call, own, [note])


def _with(recipe: Recipe, settings: Sequence[str]) -> tuple[tuple[Any, ...], Any]:
    """Return the methods and the sampler of a recipe, with the settings of `--set`."""
    from ..settings.assign import assigned

    owners = {each.name: each for each in (*recipe.methods, *_chain(recipe.sampler))}
    values = assigned(settings, {name: type(each) for name, each in owners.items()})
    methods = tuple(dataclasses.replace(m, **values[m.name]) for m in recipe.methods)
    return methods, _replaced(recipe.sampler, values)


def _chain(sampler: Any) -> Iterator[Any]:
    """Yield a sampler and the samplers in it."""
    if sampler is not None:
        yield sampler
        for inner in (sampler.noise, sampler.refine):
            yield from _chain(inner)


def _replaced(sampler: Any, values: Mapping[str, Mapping[str, Any]]) -> Any:
    if sampler is None:
        return None
    inner = {name: _replaced(getattr(sampler, name), values) for name in ("noise", "refine")}
    return dataclasses.replace(sampler, **values[sampler.name], **inner)


def _sampler_facts(sampler: Any) -> dict[str, Any]:
    from ..evaluate.scorers import facts
    from ..rewards.base import ensemble
    from ..rewards.names import name_of
    from ..settings.samplers import as_dict

    pairs = [] if sampler.rewards is None else ensemble(sampler.rewards).parts
    return as_dict(sampler, facts([(name_of(reward), reward, weight) for reward, weight in pairs]))
