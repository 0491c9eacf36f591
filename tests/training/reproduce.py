"""Check that a run begins as its log says; a rerun needs only the card and the log of an exported model."""

import json
import os
import signal

import torch
from diffusers import AutoencoderKL

from diffusers_ext.training.fit import Run, fit
from diffusers_ext.zoo import cards


def losses(log):
    """Return the losses of a log by step."""
    lines = map(json.loads, log.read_text().splitlines())
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def losses_of(log, steps):
    """Return the losses of the first `steps` steps of a log; each must be there."""
    found = losses(log)
    return torch.tensor([found[step] for step in range(1, steps + 1)])


def rerun(model, objective_class, steps, out, *, compile=False):
    """Return the losses of the first `steps` steps of a run from the seed and recipe on the card of `model`.

    The run is stopped as a user would stop it, so that it has the schedule of the complete run.
    """

    class Stopped(objective_class):
        def inputs(self, step, progress):
            if step == steps:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().inputs(step, progress)

    card = cards.card(model)
    vae = AutoencoderKL.from_pretrained(model / "vae", torch_dtype=torch.float32)
    recipe = objective_class.config(**card["config"])
    objective = Stopped(vae, out / "cache", recipe, seed=card["seed"], compile=compile)
    finished = fit(objective, out, Run(seed=card["seed"]))
    assert not finished
    return losses_of(out / "log.jsonl", steps)
