"""A step of distillation has the loss of a CPU; it moves projections and the weights of pooled tokens."""

import copy

import pytest
import torch

import diffusers_ext as dx
from diffusers_ext.training.data import latents
from diffusers_ext.training.fit import Run, fit
from diffusers_ext.training.objectives.clear import DistilConfig, DistilObjective

from .devices import backend, every_device
from .test_train import TOLERANCE, losses

SHORT = dict(samples=12, batch=4, warmup=0, first=1, log_every=1, evaluate_every=10**9, long_text=0.0)


@pytest.fixture
def student(tmp_path, monkeypatch):
    """Makes students of the shipped model, one at a time."""
    monkeypatch.setattr(latents, "SHARD", 128)
    made = []

    def make(device):
        for one in made:
            one.close()
        method = dx.CLEAR(radius=2, downsample=4, backend=backend(device))
        teacher = copy.copy(dx.load("shapes-sd3"))
        made.append(DistilObjective(teacher, method, tmp_path / "cache", DistilConfig(**SHORT)))
        return made[-1]

    yield make
    for one in made:
        one.close()


@every_device
def test_steps_lower_the_loss_that_a_cpu_computes(student, tmp_path, device):
    one = student("cpu")
    one.prepare(torch.device("cpu"))
    with torch.no_grad():
        expected = one.loss(*one.inputs(0, 0.0)).item()
    one = student(device)
    before = {name: p.detach().cpu().clone() for name, p in one.parameters().items()}
    assert fit(one, tmp_path / "run", Run())
    curve = losses(tmp_path / "run")
    assert curve[0] == pytest.approx(expected, rel=TOLERANCE) and len(curve) == 3
    moved = {name for name, p in one.parameters().items() if not torch.equal(p.detach().cpu(), before[name])}
    assert moved == before.keys()
    assert {site.backend for s in one.sessions[:1] for site in s.report().sites} == {backend(device)}
