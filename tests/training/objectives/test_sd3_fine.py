"""Test the model of 256 tokens: shapes-sd3 teaches it first, then the data; shared components stay."""

from dataclasses import replace

import pytest
import torch

import diffusers_ext as dx
from diffusers_ext.training import runs
from diffusers_ext.training.fit import Run
from diffusers_ext.training.objectives.flow import encode, velocity
from diffusers_ext.training.objectives.sd3_fine import SD3FineObjective
from diffusers_ext.training.recipes import SD3FineConfig
from diffusers_ext.zoo import cards, catalogue
from tests.close import alike

TINY = SD3FineConfig(samples=8, batch=4, warmup=4, first=1, log_every=1, evaluate_every=10**9, muon_lr=0.0)


@pytest.fixture
def objective(tmp_path, small_shards):
    return SD3FineObjective(dx.load("shapes-sd3"), tmp_path / "cache", TINY, compile=False)


def test_the_target_goes_from_the_teacher_to_the_data(objective):
    objective.prepare(torch.device("cpu"))
    inputs = objective.inputs(0, 0.0)
    latents, noise, sigma, _, ids, t5_ids, taught = inputs
    assert taught == 1 and objective.inputs(0, 0.75)[-1] == 0.25
    pipe = objective.pipe
    with torch.no_grad():
        text = encode(pipe, ids, t5_ids)
        wise, found = (
            velocity(pipe, part, latents, noise, sigma, *text)
            for part in (objective.teacher, pipe.transformer)
        )
        for share in (1.0, 0.25, 0.0):
            want = share * wise + (1 - share) * (noise - latents)
            loss = objective.denoising_loss(*inputs[:-1], torch.tensor(share))
            alike(loss, (found - want).square().mean())


def test_only_its_transformer_learns(objective):
    objective.prepare(torch.device("cpu"))
    objective.loss(*objective.inputs(0, 0.5)).backward()
    learned = objective.parameters()
    assert all(name.startswith("transformer.") for name in learned)
    assert not [name for name, p in learned.items() if p.grad is None]
    pipe, teacher = objective.pipe, objective.teacher
    others = pipe.vae, pipe.text_encoder, pipe.text_encoder_3, teacher
    assert all(p.grad is None for part in others for p in part.parameters())


def test_the_command_trains_a_pipeline_that_loads(tmp_path, monkeypatch, small_shards):
    monkeypatch.setattr(runs, "compiles", lambda: False)
    monkeypatch.setattr("diffusers_ext.training.objectives.sd3_fine.SD3FineConfig", lambda: replace(TINY))
    folder = runs.run("shapes-sd3-256", tmp_path)
    card = cards.card(folder)
    sums = cards.checksums(cards.weight_files(catalogue.path("shapes-sd3")), catalogue.path("shapes-sd3"))
    file = "transformer/diffusion_pytorch_model.safetensors"
    assert card["teacher"] == {"name": "shapes-sd3", "transformer": sums[file]}
    assert card["sha256"] == sums | {file: card["sha256"][file]}
    pipe = dx.load(folder)
    assert pipe.transformer.config.patch_size == 1 and len(pipe.transformer.transformer_blocks) == 4
    with pytest.raises(ValueError, match="shapes-sd3-256 starts from its teacher"):
        runs.run("shapes-sd3-256", tmp_path, Run(start=folder))
