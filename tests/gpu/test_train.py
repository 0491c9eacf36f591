"""The image models train on a GPU in large batches, on the data and with the losses of a CPU."""

import json

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline

from diffusers_ext.training.data import latents, teacher_pairs
from diffusers_ext.training.fit import Run, fit
from diffusers_ext.training.objectives.sd import SDObjective
from diffusers_ext.training.objectives.turbo import TurboObjective
from diffusers_ext.training.recipes import SDConfig, TurboConfig
from diffusers_ext.zoo import catalogue
from tests import needs

pytestmark = needs.gpu
SHORT = dict(samples=10 * 512, warmup=0, first=1, log_every=1, evaluate_every=10**9)
TOLERANCE = 0.03  # bf16 on one side only


def losses(out):
    lines = map(json.loads, (out / "log.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


def first_loss_on_cpu(objective):
    with torch.no_grad():
        return objective.loss(*objective.inputs(0, 0.0)).item()


def test_a_batch_of_512_and_its_distillation(tmp_path, monkeypatch):
    monkeypatch.setattr(latents, "SHARD", 512)
    monkeypatch.setattr(teacher_pairs, "SHARD", 256)
    vae = AutoencoderKL.from_pretrained(catalogue.path("shapes-sd3") / "vae", torch_dtype=torch.float32)
    objective = SDObjective(vae, tmp_path / "cache", SDConfig(**SHORT, batch=512), compile=False)
    expected = first_loss_on_cpu(objective)
    assert fit(objective, tmp_path / "sd", Run())
    curve = losses(tmp_path / "sd")
    assert curve[0] == pytest.approx(expected, rel=TOLERANCE) and curve[-1] < curve[0]

    objective.pipe.to("cpu").save_pretrained(tmp_path / "teacher")
    teacher = StableDiffusionPipeline.from_pretrained(tmp_path / "teacher")
    call = {**catalogue.MODELS["shapes-sd"].call, "num_inference_steps": 2}
    student = TurboObjective(
        teacher, tmp_path / "pairs", TurboConfig(**SHORT, batch=512), call=call, compile=True
    )
    assert fit(student, tmp_path / "turbo", Run())
    assert all(0 < loss < 100 for loss in losses(tmp_path / "turbo"))
