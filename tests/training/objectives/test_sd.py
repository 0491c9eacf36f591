import json
import math
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from diffusers import StableDiffusionPipeline
from transformers import CLIPModel

from diffusers_ext.training import provenance, runs
from diffusers_ext.training.export import export
from diffusers_ext.training.fit import Run, fit
from diffusers_ext.training.objectives.sd import SDObjective, snr_weight, spread_timesteps, velocity_loss
from diffusers_ext.training.recipes import SDConfig
from diffusers_ext.zoo import cards, catalogue
from tests.close import alike
from tests.training.reproduce import losses, losses_of, rerun

pytestmark = pytest.mark.usefixtures("small_shards")
TINY = SDConfig(samples=32, batch=4, warmup=8, first=1, log_every=1, evaluate_every=10**9)
PROMPTS = ["a red circle", "a red circle, a blue square and a yellow star"]


@pytest.fixture(scope="module")
def objective(vae, tmp_path_factory, small_shards):
    return SDObjective(vae, tmp_path_factory.mktemp("cache"), TINY, compile=False)


@pytest.fixture(scope="module")
def trained(objective, tmp_path_factory):
    """Return the folders of a run of 8 steps and of its export."""
    run, model = tmp_path_factory.mktemp("run"), tmp_path_factory.mktemp("model")
    assert fit(objective, run, Run())
    export(objective, run, model, "shapes-sd")
    return run, model


@torch.no_grad()
def sample(pipe, noise, steps, guidance):
    """Sample with DDIM by its formula (arXiv 2010.02502, equation 12), on the quantities of training."""
    read = [pipe.tokenizer(p, padding="max_length", return_tensors="pt").input_ids for p in ("", PROMPTS[1])]
    empty, text = (pipe.text_encoder(ids)[0] for ids in read)
    signal, stride = pipe.scheduler.alphas_cumprod, 1000 // steps
    times = [round(1000 - i * 1000 / steps) - 1 for i in range(steps)]
    x = noise
    for t in times:
        without, given = (pipe.unet(x, t, context).sample for context in (empty, text))
        v = without + guidance * (given - without)
        clean = signal[t].sqrt() * x - (1 - signal[t]).sqrt() * v
        eps = signal[t].sqrt() * v + (1 - signal[t]).sqrt() * x
        after = signal[t - stride] if t >= stride else torch.tensor(1.0)
        x = after.sqrt() * clean + (1 - after).sqrt() * eps
    return x


@pytest.mark.parametrize("steps", [1, 6])  # 6 does not divide 1 000
def test_the_stock_pipeline_samples_what_training_means(trained, steps):
    pipe = StableDiffusionPipeline.from_pretrained(trained[1])
    pipe.set_progress_bar_config(disable=True)
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    call = {**catalogue.MODELS["shapes-sd"].call, "num_inference_steps": steps, "output_type": "latent"}
    stock = pipe(PROMPTS[1], latents=noise, **call).images
    ours = sample(pipe, noise, steps, call["guidance_scale"])
    torch.testing.assert_close(stock, ours, rtol=1e-4, atol=1e-4)


def test_training_reads_text_exactly_as_the_stock_pipeline_does(objective):
    pipe = objective.pipe
    ids = torch.tensor(pipe.tokenizer([*PROMPTS, ""], padding="max_length").input_ids)
    with torch.no_grad():
        stock, empty = pipe.encode_prompt(PROMPTS, "cpu", 1, True)
        ours = pipe.text_encoder(ids)[0]
    alike(ours, torch.cat([stock, empty[:1]]))


def test_pure_noise_is_trained_on_and_tells_nothing_of_the_picture(objective):
    """With zero terminal SNR, the loss at the first timestep of sampling equals guessing the mean picture."""
    scheduler, latents = objective.pipe.scheduler, torch.randn(2, 4, 16, 16)
    scheduler.set_timesteps(15)
    last = scheduler.timesteps[:1].repeat(2)
    noise = torch.randn(2, 4, 16, 16)
    assert last[0] == 999
    assert torch.equal(scheduler.add_noise(latents, noise, last), noise)
    assert torch.equal(scheduler.get_velocity(latents, noise, last), -latents)


def test_the_loss_is_that_of_v_by_its_definition(objective):
    torch.manual_seed(1)
    latents, noise, weight = torch.randn(3, 4, 16, 16), torch.randn(3, 4, 16, 16), torch.rand(3, 1, 16, 16)
    t, pipe = torch.tensor([0, 500, 999]), objective.pipe
    ids = torch.tensor(pipe.tokenizer([*PROMPTS, ""], padding="max_length").input_ids)
    a = pipe.scheduler.alphas_cumprod[t].sqrt()[:, None, None, None]
    s = (1 - a * a).sqrt()
    with torch.no_grad():
        v = pipe.unet(a * latents + s * noise, t, pipe.text_encoder(ids)[0]).sample
        expected = (weight * (v - (a * noise - s * latents)) ** 2).mean()
        plain = velocity_loss(pipe, latents, noise, t, weight, ids, limit=math.inf)
        alike(plain, expected)
        assert velocity_loss(pipe, latents, noise, t, weight, ids, limit=1.0) < plain


def test_weights_are_one_on_noise_and_bounded_in_the_latents():
    scheduler = SimpleNamespace(alphas_cumprod=torch.tensor([0.0, 0.5, 5 / 6, 0.9, 0.999]))
    weight = snr_weight(scheduler, torch.arange(5), 5.0).flatten()  # SNR 0, 1, 5, 9, 999
    torch.testing.assert_close(weight[:3], torch.ones(3))
    in_latents = weight[3:] / (1 - scheduler.alphas_cumprod[3:])  # v has the error of the latents times this
    torch.testing.assert_close(in_latents, torch.full((2,), 6.0))


def test_what_a_step_draws_leaves_alone_the_tables_that_move_to_the_device(objective, monkeypatch):
    scheduler = objective.pipe.scheduler
    expected = objective.inputs(3, 0.0)
    monkeypatch.setattr(scheduler, "alphas_cumprod", scheduler.alphas_cumprod.to("meta"))
    assert all(torch.equal(a, b) for a, b in zip(objective.inputs(3, 0.0), expected, strict=True))


def test_timesteps_of_a_batch_are_spread():
    t = spread_timesteps(50, 1000, torch.Generator().manual_seed(0))
    assert (t // 20).sort().values.tolist() == list(range(50)) and t.dtype == torch.int64
    assert abs(t[:25].float().mean() - t[25:].float().mean()) < 250  # rows of a kind see all noise levels
    many = torch.cat([spread_timesteps(50, 1000, torch.Generator().manual_seed(i)) for i in range(400)])
    assert (many.min(), many.max()) == (0, 999) and len(many.unique()) > 990


def test_the_last_timestep_is_never_passed(monkeypatch):
    """In fp32 63 plus the largest random number below 1 is 64."""
    monkeypatch.setattr(torch, "rand", lambda count, generator: torch.full((count,), 1 - 2**-24))
    assert spread_timesteps(64, 1000, torch.Generator()).max() == 999


def test_training_lowers_the_loss(vae, objective, tmp_path):
    recipe = replace(TINY, samples=96, batch=8, warmup=16, decay=0.5, foreground=0.0)
    assert fit(SDObjective(vae, objective.stream.shards.folder, recipe, compile=False), tmp_path, Run())
    curve = list(losses(tmp_path / "log.jsonl").values())
    assert sum(curve[-4:]) < 0.9 * sum(curve[:4])


def test_the_export_loads_as_a_stock_pipeline_without_a_word(trained, capfd):
    _, model = trained
    cards.verify_weights(model)
    pipe = StableDiffusionPipeline.from_pretrained(model)
    assert "safety" not in capfd.readouterr().err
    assert pipe.safety_checker is None and not pipe.config.requires_safety_checker
    assert {p.dtype for p in pipe.unet.parameters()} == {torch.float32}
    card = json.loads((model / cards.CARD).read_text())
    assert (card["pipeline"], card["steps"]) == ("StableDiffusionPipeline", 8)
    assert card["call"] == dict(catalogue.MODELS["shapes-sd"].call)
    assert sum(f.stat().st_size for f in model.rglob("*") if f.is_file()) < 10_000_000


def test_card_and_log_of_an_export_suffice_to_begin_the_run_again(trained, tmp_path):
    _, model = trained
    logged = losses_of(model / "training_log.jsonl", 3)
    assert torch.equal(rerun(model, SDObjective, 3, tmp_path / "same"), logged)
    altered = tmp_path / "altered"
    shutil.copytree(model, altered)
    card = json.loads((model / cards.CARD).read_text())
    (altered / cards.CARD).write_text(json.dumps(card | {"config": card["config"] | {"lr": 2e-3}}))
    other = rerun(altered, SDObjective, 3, tmp_path / "other")
    assert other[0] == logged[0] and other[2] != logged[2]


def test_a_run_may_start_from_a_text_encoder_alone(trained, vae, tmp_path):
    _, model = trained
    part = tmp_path / "start"
    shutil.copytree(model / "text_encoder", part / "text_encoder")
    fresh = SDObjective(vae, tmp_path, TINY, compile=False)
    begun = SDObjective(vae, tmp_path, TINY, start=part, compile=False)
    saved = StableDiffusionPipeline.from_pretrained(model)
    for name, p in begun.parameters().items():
        component, _, key = name.partition(".")
        source = saved.text_encoder if component == "text_encoder" else fresh.pipe.unet
        assert torch.equal(p, source.get_parameter(key)), name


def test_the_card_tells_where_a_run_began_also_when_it_was_resumed(tmp_path, vae, monkeypatch):
    monkeypatch.setattr(SDObjective, "config", lambda _: TINY)
    monkeypatch.setattr(runs, "compiles", lambda: False)
    monkeypatch.setattr(runs, "PROBE", 4)
    home = catalogue.path("shapes-sd")

    def run(**how):
        folder = runs.run("shapes-sd", tmp_path, Run(minutes=0, **how))
        return json.loads((folder / cards.CARD).read_text())

    assert run(start=home)["steps"] == 1
    card = run()
    assert card["config"]["foreground"] == 0, "the recipe of a trained denoiser, also when the run goes on"
    assert card["steps"] == 2 and card["start"]["name"] == "shapes-sd" and "text_encoder" not in card
    assert card["start"]["sha256"].keys() == {k for k in card["sha256"] if not k.startswith("vae")}
    with pytest.raises(ValueError, match=r"another start, .*'shapes-sd'"):
        run(start=tmp_path / "shapes-sd")
    vae.save_pretrained(tmp_path / "shapes-vae" / "vae")
    with pytest.raises(ValueError, match="another autoencoder"):
        run()
    card = run(resume=False)
    assert card["config"]["foreground"] == TINY.foreground > 0
    assert card["text_encoder"] == {"start": "shapes-clip", "sha256": provenance.of_text("shapes-clip")}
    assert "start" not in card and card["autoencoder"].keys() == {"psnr_db", "exact"}
    kept = list((tmp_path / "shapes-sd" / "cache" / "seed-0").iterdir())
    assert len(kept) == 2, "latents of the two autoencoders lie apart"


def test_a_start_without_any_trained_part_is_refused(vae, tmp_path):
    with pytest.raises(FileNotFoundError, match="at least one of unet, text_encoder"):
        SDObjective(vae, tmp_path, TINY, start=tmp_path, compile=False)


def test_the_text_encoder_begins_as_the_reward_reads(vae, tmp_path):
    reward = CLIPModel.from_pretrained(catalogue.path("shapes-clip")).text_model.eval()
    fresh = SDObjective(vae, tmp_path, TINY, compile=False).pipe
    ids = fresh.tokenizer(PROMPTS, padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        want, got = reward(ids)[0], fresh.text_encoder.eval()(ids)[0]
    torch.testing.assert_close(got, want, rtol=0, atol=0)
