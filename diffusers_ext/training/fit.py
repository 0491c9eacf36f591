"""Run the training loop, which is one for all models; an `Objective` says what is learned."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ..outputs.stop import Stopped, StopRequest
from . import provenance
from .average import Average, restore
from .checkpoint import load_checkpoint, save_atomically
from .log import Log
from .machine import precision
from .objective import Objective
from .recipes import Recipe, Schedule

if TYPE_CHECKING:
    import torch

FULL_LOG = 200  # number of first steps that are all logged, so that a rerun can be compared


@dataclass(frozen=True, slots=True)
class Run:
    """These options say how a run is carried out, as opposed to what it learns.

    `samples` sets the planned length, also on resume. `decay_now` lets the learning rate fall to zero from
    the checkpoint to the end. `minutes` stops early and leaves a checkpoint. The minutes count from `started`
    (s, of `time.perf_counter`), so they include preparation; 0 stops after the first step. `batch` replaces
    the batch size of the recipe, for machines that need a larger one; on resume it stays as it is. `start` is
    the folder of a saved pipeline, or of parts of one, whose weights the run begins with. On resume it may be
    left out. Raises `ValueError` for numbers that are too small.
    """

    minutes: float | None = None
    samples: int | None = None
    decay_now: bool = False
    resume: bool = True
    seed: int = 0
    checkpoint_minutes: float = 5.0
    batch: int | None = None
    start: Path | None = None
    started: float = field(default_factory=time.perf_counter, compare=False)

    @property
    def deadline(self) -> float | None:
        """Return the time at which preparation is stopped, on the clock of `started`."""
        return self.started + 60 * self.minutes if self.minutes else None

    def __post_init__(self) -> None:
        for name, least in (("minutes", 0), ("samples", 1), ("batch", 1)):
            number = getattr(self, name)
            if number is not None and not number >= least:  # NaN included
                raise ValueError(
                    f"{name} of a run must be at least {least}, got {number}; "
                    "leave it out to train as the recipe says"
                )


def fit(
    objective: Objective, out: Path, run: Run = Run(), origin: Mapping[str, Any] = MappingProxyType({})
) -> bool:
    """Train into `out` (checkpoint.pt, log.jsonl, samples/); return True if the planned samples are reached.

    `origin` is what the run begins with besides its seed, such as checksums of other models, as JSON data.
    Raises `ValueError` if the checkpoint in `out` belongs to a run that began with something else.
    """
    import torch
    from accelerate import Accelerator
    from tqdm import tqdm

    log, path, step, spent = Log(out / "log.jsonl"), out / "checkpoint.pt", 0, 0.0
    state = load_checkpoint(path) if run.resume and path.exists() else None
    begun = {"seed": run.seed, **origin}
    if state is not None:
        begun = provenance.resumed(out, begun, state)
    recipe = replace(objective.recipe, **chosen(objective.recipe, run, state))
    objective.recipe = recipe
    accelerator = Accelerator(mixed_precision=precision())
    objective.prepare(accelerator.device)
    parameters = objective.parameters()
    optimizers = build_optimizers(objective, recipe)
    average = Average(parameters.values(), recipe.ema)
    schedule = Schedule.plan(recipe.samples, recipe.warmup, recipe.decay)
    if state is not None:
        restore(parameters, state["model"])
        for optimizer, kept in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
        average.mean = [m.to(accelerator.device) for m in state["average"]]
        step, spent = state["step"], state["seconds"]
        if run.samples is None:
            schedule = Schedule(*state["schedule"])
    if run.decay_now:
        schedule = Schedule(0, step * recipe.batch, schedule.total)

    def save() -> None:
        state = {"model": {k: p.detach() for k, p in parameters.items()}, "average": average.mean}
        state |= {"optimizers": [o.state_dict() for o in optimizers], "step": step, "seconds": spent}
        plan = [schedule.warmup, schedule.decay_from, schedule.total]
        save_atomically({**state, "schedule": plan, "identity": begun, "batch": recipe.batch}, path)

    if state is None:
        # The checkpoint of the run that this one replaces does not belong to the new log.
        path.unlink(missing_ok=True)
    log.rewind(step)
    saved = ticked = time.perf_counter()
    logged = (step, saved)
    pace = 0.5 if sys.stderr.isatty() else 10  # s between two updates of the bar
    with (
        StopRequest() as stop,
        tqdm(total=schedule.total, initial=step * recipe.batch, mininterval=pace, unit=" samples") as bar,
    ):
        while step * recipe.batch < schedule.total:
            used = step * recipe.batch
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = group["base_lr"] * schedule.factor(used)
            try:
                # Drawing data takes minutes and changes nothing that a checkpoint holds.
                with stop.at_once(run.deadline):
                    inputs = objective.inputs(step, used / schedule.total)
            except Stopped:
                spent += time.perf_counter() - ticked
                save()
                bar.write(_stopped(step, ", while data for the next one was prepared"), file=sys.stderr)
                return False
            with accelerator.autocast():
                loss = objective.loss(*(x.to(accelerator.device) for x in inputs))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters.values(), recipe.clip)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
            average.update(step)
            step += 1
            bar.update(recipe.batch)
            now = time.perf_counter()
            spent, ticked = spent + now - ticked, now
            if step % recipe.log_every == 0 or step <= FULL_LOG:
                rate = (step - logged[0]) * recipe.batch / (now - logged[1])
                logged = (step, now)
                lr = optimizers[0].param_groups[0]["lr"]
                log.write(
                    step=step,
                    samples=step * recipe.batch,
                    loss=loss.item(),
                    lr=lr,
                    samples_per_s=rate,
                    seconds=spent,
                )
            over = run.minutes is not None and now - run.started > 60 * run.minutes
            done = step * recipe.batch >= schedule.total
            if stop.asked or over or done or now - saved > 60 * run.checkpoint_minutes:
                save()
                saved = time.perf_counter()
            if used // recipe.evaluate_every < step * recipe.batch // recipe.evaluate_every:
                average.swap()
                with accelerator.autocast(), torch.no_grad():
                    figures = objective.evaluate(out / "samples" / f"{step * recipe.batch:08d}.png")
                average.swap()
                if figures:
                    log.write(step=step, samples=step * recipe.batch, seconds=spent, exact=dict(figures))
            if (stop.asked or over) and not done:
                bar.write(_stopped(step), file=sys.stderr)
                return False
    return True


def _stopped(step: int, where: str = "") -> str:
    return f"stopped after step {step}{where}; the checkpoint is written, the same command goes on from here"


def chosen(recipe: Recipe, run: Run, checkpoint: Mapping[str, Any] | None) -> dict[str, int]:
    """Return samples and batch of a run: those asked for, else the checkpoint's, else the recipe's.

    Raises `ValueError` when a run is resumed with another batch, since its steps would mean other samples.
    """
    begun = None if checkpoint is None else checkpoint.get("batch", recipe.batch)
    if begun is not None and run.batch not in (None, begun):
        raise ValueError(
            f"the batch must be the {begun} that the run began with, got {run.batch}; "
            "leave it out or begin a new run"
        )
    return {"samples": run.samples or recipe.samples, "batch": run.batch or begun or recipe.batch}


def build_optimizers(objective: Objective, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Return AdamW, and Muon for the hidden matrices if the recipe asks for it."""
    import torch

    parameters = objective.parameters()
    hidden = [k for k, p in parameters.items() if recipe.muon_lr and p.ndim == 2 and objective.hidden(k)]
    rest = [p for k, p in parameters.items() if k not in set(hidden)]
    decay = recipe.weight_decay
    optimizers = [torch.optim.AdamW(rest, lr=recipe.lr, betas=(0.9, 0.99), weight_decay=decay, fused=True)]
    if hidden:
        matrices = [parameters[k] for k in hidden]
        muon = torch.optim.Muon(
            matrices, lr=recipe.muon_lr, weight_decay=decay, adjust_lr_fn="match_rms_adamw"
        )
        optimizers.append(muon)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["base_lr"] = group["lr"]
    return optimizers
