"""Carry out the runs of the zoo, by the kinds of `plans`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ..zoo.cards import sha256
from ..zoo.catalogue import MODELS
from . import provenance
from .average import averaged
from .checkpoint import load_checkpoint
from .components import FILE, autoencoder, cache, taken_from_start, teacher_of
from .export import describe, export
from .fit import Run, fit
from .log import Log
from .machine import compiles
from .plans import RUNS, Plan
from .recipes import NoiseAwareConfig

PROBE = 400  # pictures or clips on which an autoencoder is measured for the card


def run(name: str, out: Path | None = None, how: Run | None = None) -> Path:
    """Train `name` in the folder `out`/`name` and write the model there; returns that folder.

    An interrupted run goes on from its checkpoint. It raises `ValueError` if its seed, its autoencoder or
    another origin is not what it began with. Image models take their autoencoder from `out`/shapes-vae if
    that was trained, else from the shipped weights. shapes-wan takes its own from shapes-wan-vae in the same
    way. A run that stops early, by `how.minutes` or SIGTERM, writes what it has.
    """
    if name not in RUNS:
        raise ValueError(f"unknown model {name!r}; train one of {', '.join(RUNS)}")
    plan = RUNS[name]
    return KINDS[plan.kind](name, plan, Path(out or "runs"), how or Run())


def _autoencoder(name: str, plan: Plan, out: Path, how: Run) -> Path:
    """Train an autoencoder, which is written when its run is complete."""
    _no_start(name, how, "the seed alone")
    objective, folder = getattr(plan.code(), plan.objective)(seed=how.seed), out / name
    if fit(objective, folder, how):
        objective.export(folder)
    return folder


def _denoiser(name: str, plan: Plan, out: Path, how: Run) -> Path:
    """Train a pipeline on what its autoencoder encodes."""
    folder, (vae, mark) = out / name, autoencoder(out, plan.autoencoder)
    objective = getattr(plan.code(), plan.objective)(
        vae,
        cache(folder, how, mark),
        start=how.start,
        given=taken_from_start(folder) if how.resume else (),
        seed=how.seed,
        compile=compiles(),
    )
    begun = provenance.of_start(how.start, objective.trained)
    fit(objective, folder, how, {"autoencoder": mark, "start": begun})
    facts = dict(plan.facts)
    if plan.reader and not taken_from_start(folder):
        facts["text_encoder"] = {"start": plan.reader, "sha256": provenance.of_text(plan.reader)}
    facts["autoencoder"] = RUNS[plan.autoencoder].code().measure(vae.to("cpu"), PROBE)
    export(objective, folder, folder, name, **facts)
    return folder


def _student(name: str, plan: Plan, out: Path, how: Run) -> Path:
    """Train a pipeline that learns from a component of another one."""
    from diffusers import DiffusionPipeline

    _no_start(name, how, "its teacher")
    teacher, part = plan.teacher
    source, folder = teacher_of(name, teacher, out), out / name
    mark = sha256(source / part / FILE)
    objective = getattr(plan.code(), plan.objective)(
        DiffusionPipeline.from_pretrained(source),
        cache(folder, how, mark),
        seed=how.seed,
        compile=compiles(),
    )
    origin = {"teacher": {"name": teacher, part: mark}}
    fit(objective, folder, how, origin)
    export(objective, folder, folder, name, **plan.facts, **origin)
    return folder


def _reward(name: str, plan: Plan, out: Path, how: Run) -> Path:
    """Train a reward, which is written together with its processor."""
    folder, (vae, mark) = out / name, autoencoder(out, plan.autoencoder)
    objective = getattr(plan.code(), plan.objective)(vae, start=how.start, seed=how.seed)
    fit(objective, folder, how, {"autoencoder": mark, "start": provenance.of_start(how.start)})
    export(objective, folder, folder, name)
    objective.processor.tokenizer.backend_tokenizer.no_padding()  # else it keeps the padding of its last call
    objective.processor.save_pretrained(folder)
    return folder


def _noise_aware(name: str, plan: Plan, out: Path, how: Run) -> Path:
    """Train a reward for estimated pictures, step by step, each from the weights of the step before."""
    from diffusers import DiffusionPipeline

    from ..rewards import NoiseAware, ShapesCLIP
    from .data.estimates import Estimates

    _no_start(name, how, "the reward shapes-clip")
    teacher, part = plan.teacher
    source, folder, base = teacher_of(name, teacher, out), out / name, ShapesCLIP()
    mark, recipe = sha256(source / part / FILE), NoiseAwareConfig()
    pipe = DiffusionPipeline.from_pretrained(source)
    pipe.set_progress_bar_config(disable=True)
    home = cache(folder, how, mark)
    data = Estimates(pipe, MODELS[teacher].call, base, home, how.seed, recipe.steps, recipe.prompts)
    origin = {"teacher": {"name": teacher, part: mark}}
    levels: dict[float, Mapping[str, Any]] = {}
    log: list[dict[str, Any]] = []
    start, steps, seconds = None, 0, 0.0
    for step, level in zip(recipe.steps, [round(level, 4) for level in data.levels()], strict=True):
        objective = getattr(plan.code(), plan.objective)(base, data, step, recipe, start=start, seed=how.seed)
        run = folder / f"step-{step:02d}"
        done = fit(objective, run, how, origin)
        state = load_checkpoint(run / "checkpoint.pt")
        averaged(objective, state)
        start = levels[level] = objective.tensors()
        log += [{"level": level, **line} for line in Log(run / "log.jsonl").read()]
        steps, seconds = steps + state["step"], seconds + state["seconds"]
        if not done:
            break
    NoiseAware(base, levels).save_pretrained(folder)
    facts = {
        "steps": steps,
        "samples": steps * objective.recipe.batch,
        "hours": round(seconds / 3600, 2),
        "levels": sorted(levels),
        **plan.facts,
        **origin,
    }
    describe(objective, state, log, folder, name, **facts)
    return folder


def _no_start(name: str, how: Run, begins: str) -> None:
    if how.start is not None:
        raise ValueError(f"{name} starts from {begins}, got the start {how.start}; leave it out")


KINDS: Mapping[str, Callable[[str, Plan, Path, Run], Path]] = MappingProxyType(
    {
        "autoencoder": _autoencoder,
        "denoiser": _denoiser,
        "student": _student,
        "reward": _reward,
        "noise-aware": _noise_aware,
    }
)
