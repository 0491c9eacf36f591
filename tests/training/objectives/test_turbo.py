from dataclasses import replace

import pytest
import torch
from diffusers import StableDiffusionPipeline

from diffusers_ext.training import components, runs
from diffusers_ext.training.data import teacher_pairs
from diffusers_ext.training.fit import Run, fit
from diffusers_ext.training.objectives import turbo
from diffusers_ext.training.objectives.turbo import TurboObjective, clean, matching_loss
from diffusers_ext.training.recipes import TurboConfig
from diffusers_ext.zoo import cards, catalogue
from diffusers_ext.zoo.models import build_sd
from tests.close import alike, close

TINY = TurboConfig(samples=32, batch=4, warmup=8, first=1, reuse=100, log_every=1, evaluate_every=10**9)
CALL = {"height": 64, "width": 64, "num_inference_steps": 2, "guidance_scale": 4.0}
ONE_STEP = {**catalogue.MODELS["shapes-sd-turbo"].call, "output_type": "latent"}


@pytest.fixture(scope="module", autouse=True)
def few_pairs():
    """Use 8 pairs per shard."""
    whole, teacher_pairs.SHARD = teacher_pairs.SHARD, 8
    yield
    teacher_pairs.SHARD = whole


@pytest.fixture
def teacher(vae):
    torch.manual_seed(0)
    return build_sd(vae)


def distil(teacher, folder, recipe=TINY, **call):
    return TurboObjective(teacher, folder / "cache", recipe, call=CALL | call, compile=False)


@torch.no_grad()
def distance(objective):
    """Return the mean square between a step of the student and the teacher's pictures, over one shard."""
    drawn, pipe = objective.pairs.batch(0, 8, torch.Generator().manual_seed(0)), objective.pipe
    t = torch.full((8,), 999)
    v = pipe.unet(drawn.noise, t, pipe.text_encoder(drawn.ids)[0]).sample
    return (clean(pipe.scheduler, drawn.noise, t, v) - drawn.latents).square().mean().item()


def test_the_student_comes_closer_to_its_teacher(teacher, tmp_path):
    """Only regression is tested: an untrained teacher is no denoiser, so matching means nothing."""
    kept = {k: p.clone() for k, p in teacher.unet.named_parameters()}
    objective = distil(teacher, tmp_path, replace(TINY, lr=1e-3, paired=1.0, matching=0.0))
    before = distance(objective)
    assert fit(objective, tmp_path, Run())
    assert distance(objective) < 0.8 * before
    assert all(torch.equal(p, kept[k]) for k, p in teacher.unet.named_parameters())


def test_a_pair_is_what_the_stock_pipeline_makes_of_the_noise(teacher, tmp_path):
    drawn = distil(teacher, tmp_path).pairs.batch(0, 2, torch.Generator().manual_seed(3))
    prompts = teacher.tokenizer.batch_decode(drawn.ids, skip_special_tokens=True)
    stock = teacher(prompts, latents=drawn.noise, output_type="latent", **CALL).images
    torch.testing.assert_close(drawn.latents, stock, atol=0.05, rtol=0.05)  # autocast to bf16, kept in fp16
    again = distil(teacher, tmp_path).pairs.batch(0, 2, torch.Generator().manual_seed(3))
    assert all(torch.equal(a, b) for a, b in zip(drawn, again, strict=True))


def test_one_step_of_the_stock_pipeline_is_the_student(teacher, tmp_path):
    """At the first timestep the estimate contains none of the noise: the picture is -v, guidance off."""
    objective, noise = distil(teacher, tmp_path), torch.randn(1, 4, 16, 16)
    pipe, prompt = objective.pipe, "a blue star"
    images = [pipe(prompt, latents=noise, **ONE_STEP | {"guidance_scale": s}).images for s in (0.0, 1.0)]
    with torch.no_grad():
        text = pipe.encode_prompt(prompt, "cpu", 1, False)[0]
        expected = -pipe.unet(noise, torch.tensor(999), text).sample
    assert torch.equal(images[0], images[1])
    alike(images[0], expected)


def test_a_critic_that_agrees_with_the_teacher_moves_nothing(teacher, tmp_path):
    """In the limit of equal denoisers, matching has no gradient; the critic's loss moves only the critic."""
    objective = distil(teacher, tmp_path, replace(TINY, regression=0.0), guidance_scale=1.0)
    objective.loss(*objective.inputs(0, 0.0)).backward()
    largest = {k: p.grad.abs().max().item() for k, p in objective.parameters().items() if p.grad is not None}
    assert max(g for k, g in largest.items() if k.startswith("unet.")) < 1e-6
    assert max(g for k, g in largest.items() if k.startswith("critic.")) > 1e-3
    assert not [p for p in teacher.unet.parameters() if p.grad is not None]


def test_matching_moves_pictures_from_the_critic_to_the_teacher():
    torch.manual_seed(0)
    made, real, fake = torch.randn(3, 2, 4, 16, 16)
    made.requires_grad_()
    matching_loss(made, real, fake).backward()
    scale = (made - real).abs().mean((1, 2, 3), keepdim=True)
    close(made.grad, ((fake - real) / scale / made.numel()).detach())


def test_a_run_ends_as_a_stock_pipeline_of_one_step(teacher, tmp_path, monkeypatch):
    teacher.save_pretrained(tmp_path / "shapes-sd")
    monkeypatch.setattr(turbo, "TurboConfig", lambda: TINY)
    monkeypatch.setattr(runs, "compiles", lambda: False)
    folder = runs.run("shapes-sd-turbo", tmp_path, Run(minutes=0))
    cards.verify_weights(folder)
    card = cards.card(folder)
    sums = cards.checksums(cards.weight_files(tmp_path / "shapes-sd"), tmp_path / "shapes-sd")
    assert card["teacher"] == {"name": "shapes-sd", "unet": sums["unet/diffusion_pytorch_model.safetensors"]}
    pipe = StableDiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    picture = pipe("a red circle", output_type="np", **card["call"]).images
    assert picture.shape == (1, 64, 64, 3) and pipe.scheduler.timesteps.tolist() == [999]


def test_another_teacher_is_another_run(teacher, tmp_path, monkeypatch):
    monkeypatch.setattr(turbo, "TurboConfig", lambda: TINY)
    monkeypatch.setattr(runs, "compiles", lambda: False)
    teacher.save_pretrained(tmp_path / "shapes-sd")
    runs.run("shapes-sd-turbo", tmp_path, Run(minutes=0))
    with torch.no_grad():
        teacher.unet.conv_out.bias.add_(1)
    teacher.save_pretrained(tmp_path / "shapes-sd")
    with pytest.raises(ValueError, match=r"another teacher, \{'name': 'shapes-sd', 'unet': "):
        runs.run("shapes-sd-turbo", tmp_path)


def test_without_a_teacher_the_error_says_how_to_get_one(tmp_path, monkeypatch):
    monkeypatch.setattr(components, "WEIGHTS", tmp_path)
    with pytest.raises(FileNotFoundError, match="run 'diffusers-ext train shapes-sd' first"):
        runs.run("shapes-sd-turbo", tmp_path)


def test_another_start_than_the_teacher_is_refused(tmp_path):
    with pytest.raises(ValueError, match="starts from its teacher"):
        runs.run("shapes-sd-turbo", tmp_path, Run(start=tmp_path))
