"""Test the clip models of the zoo: the objective feeds them as the stock pipeline does."""

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan, WanPipeline
from PIL import Image
from transformers import CLIPModel

from diffusers_ext.training import runs
from diffusers_ext.training.export import export
from diffusers_ext.training.fit import Run, fit
from diffusers_ext.training.objectives.flow import lengthen
from diffusers_ext.training.objectives.vae import reconstruct
from diffusers_ext.training.objectives.wan import (
    LONG_TEXT,
    SHORT_TEXT,
    StillStream,
    WanObjective,
    clip_is_exact,
    encode,
    flow_loss,
    latent_cover,
)
from diffusers_ext.training.objectives.wan_vae import (
    WanVAEObjective,
    clips,
    measure,
    single_frames_as_pictures,
)
from diffusers_ext.training.progress import score
from diffusers_ext.training.provenance import of_text
from diffusers_ext.training.recipes import WanConfig, WanVAEConfig
from diffusers_ext.zoo import cards, catalogue
from diffusers_ext.zoo.models import build_wan, build_wan_vae
from diffusers_ext.zoo.models.wan import CHANNELS, LATENT, normalised, set_statistics
from diffusers_ext.zoo.world.clips import SIDE, training_still
from diffusers_ext.zoo.world.motion import parse
from diffusers_ext.zoo.world.suites import VIDEO_TASKS
from tests.close import alike

TINY = WanConfig(
    text_steps=0, samples=8, batch=4, stills=4, warmup=4, first=1, log_every=1, evaluate_every=10**9
)
PROMPTS = ["a red circle moves left while a blue square grows", "a pink star"]
CALL = catalogue.MODELS["shapes-wan"].call


@pytest.fixture(scope="module")
def clip_vae():
    torch.manual_seed(0)
    vae = build_wan_vae().eval()
    set_statistics(vae, torch.linspace(-0.2, 0.2, CHANNELS), torch.linspace(0.5, 2.0, CHANNELS))
    return vae


@pytest.fixture(scope="module")
def clip_pipe(clip_vae):
    """Return the untrained pipeline with its zeroed parts changed, so that text and time matter."""
    torch.manual_seed(1)
    pipe = build_wan(clip_vae)
    with torch.no_grad():
        for parameter in pipe.transformer.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def ids_of(pipe, prompts, length):
    ids = torch.tensor(pipe.tokenizer(prompts, padding="max_length").input_ids)
    return lengthen(ids, length, pipe.tokenizer.pad_token_id)


@pytest.mark.parametrize("length", [SHORT_TEXT, LONG_TEXT])
@torch.no_grad()
def test_text_is_read_as_the_stock_pipeline_reads_it(clip_pipe, length):
    prompts = [*PROMPTS, ""]
    stock, _ = clip_pipe.encode_prompt(prompts, max_sequence_length=length, do_classifier_free_guidance=False)
    ours = encode(clip_pipe, ids_of(clip_pipe, prompts, length))
    assert ours.shape == stock.shape == (3, length, 128)
    torch.testing.assert_close(ours, stock, atol=1e-5, rtol=1e-5)
    assert ours[0, 12:].eq(0).all() and ours[0, :12].ne(0).any(-1).all()


@torch.no_grad()
def test_the_stock_pipeline_samples_by_the_trained_convention(clip_pipe, clip_vae):
    """Euler steps by hand through the trained model give the pipeline's own frames."""
    steps, scale = 4, 3.0
    call = dict(CALL) | {"num_inference_steps": steps, "guidance_scale": scale, "output_type": "pt"}
    stock = clip_pipe(PROMPTS, generator=torch.Generator().manual_seed(5), **call).frames
    x = torch.randn(2, CHANNELS, *LATENT, generator=torch.Generator().manual_seed(5))
    texts = [encode(clip_pipe, ids_of(clip_pipe, p, SHORT_TEXT)) for p in (PROMPTS, ["", ""])]
    sigmas = [*np.linspace(1, 1 / 1000, steps), 0.0]
    for sigma, after in pairwise(sigmas):
        cond, uncond = (
            clip_pipe.transformer(x, torch.full((2,), 1000 * sigma), text, return_dict=False)[0]
            for text in texts
        )
        x = x + (after - sigma) * (uncond + scale * (cond - uncond))
    mean, std = (
        torch.tensor(v).view(1, CHANNELS, 1, 1, 1)
        for v in (clip_vae.config.latents_mean, clip_vae.config.latents_std)
    )
    torch.testing.assert_close(normalised(clip_vae, x * std + mean), x)
    ours = (clip_vae.decode(x * std + mean).sample / 2 + 0.5).clamp(0, 1).transpose(1, 2)
    assert stock.shape == ours.shape == (2, 9, 3, 32, 32)
    torch.testing.assert_close(ours, stock, atol=1e-4, rtol=1e-4)


def test_cover_follows_the_latent_grid():
    masks = np.zeros((1, 9, 32, 32), np.float32)
    masks[0, 4, 8:12, 16:20] = 1  # frame 4 is the later half of latent frame 2
    cover = latent_cover(masks)
    assert cover.shape == (1, 1, *LATENT)
    assert cover[0, 0, 2, 2, 4] == 0.5 and cover.sum() == 0.5


def test_a_run_resumes_and_exports_a_stock_pipeline(tmp_path, clip_vae, small_shards):
    def objective():
        return WanObjective(clip_vae, tmp_path / "cache", TINY, compile=False)

    assert not fit(objective(), tmp_path / "run", Run(minutes=0))
    assert fit(objective(), tmp_path / "run", Run())
    export(objective(), tmp_path / "run", tmp_path / "model", "shapes-wan", tasks=list(VIDEO_TASKS))
    cards.verify_weights(tmp_path / "model")
    card = json.loads((tmp_path / "model" / cards.CARD).read_text())
    assert card["pipeline"] == "WanPipeline" and card["call"]["num_frames"] == 9
    pipe = WanPipeline.from_pretrained(tmp_path / "model")
    assert pipe.vae.config.latents_std == clip_vae.config.latents_std
    pipe.set_progress_bar_config(disable=True)
    sheet = tmp_path / "samples" / "8.png"
    ask = {"tasks": VIDEO_TASKS, "exact": clip_is_exact, "num_inference_steps": 1}
    scores = score(pipe, "shapes-wan", 1, sheet, **ask)
    assert tuple(scores) == VIDEO_TASKS and set(scores.values()) <= {0.0, 1.0}
    assert Image.open(sheet).size == (32 + 6, len(VIDEO_TASKS) * (3 * 32 + 6)), "three frames of each clip"


def test_the_command_tells_data_tasks_and_whom_the_text_encoder_imitated(tmp_path, monkeypatch, small_shards):
    monkeypatch.setattr(WanObjective, "config", lambda _: TINY)
    monkeypatch.setattr(runs, "compiles", lambda: False)
    monkeypatch.setattr(runs, "PROBE", 4)
    card = json.loads((runs.run("shapes-wan", tmp_path, Run(minutes=0)) / cards.CARD).read_text())
    reader = of_text("shapes-clip")
    assert card["text_encoder"] == {"start": "shapes-clip", "sha256": reader}
    assert card["tasks"] == list(VIDEO_TASKS) and "clips" in card["data"] and card["steps"] == 1
    assert card["autoencoder"].keys() == {"psnr_db", "exact"}


def test_the_text_encoder_first_learns_to_read_like_the_reward(clip_vae, tmp_path):
    def distance(steps):
        pipe = WanObjective(
            clip_vae, tmp_path / str(steps), replace(TINY, text_steps=steps), compile=False
        ).pipe
        with torch.no_grad():
            ids = ids_of(pipe, PROMPTS, SHORT_TEXT)
            got, want = encode(pipe, ids), reward(ids)[0]
        return (got - want)[got != 0].square().mean().item()

    reward = CLIPModel.from_pretrained(catalogue.path("shapes-clip")).text_model.eval()
    first = distance(12)
    assert first < 0.8 * distance(0)
    assert distance(12) == first, "found done on the disk"
    kept = f"text-12-{of_text('shapes-clip')[:12]}.safetensors"
    assert [f.name for f in (tmp_path / "12").iterdir()] == [kept]


def test_single_frames_are_learned_beside_the_clips(clip_vae, tmp_path, small_shards):
    both = WanObjective(clip_vae, tmp_path, replace(TINY, stills=6), compile=False)
    inputs = both.inputs(0, 0.0)
    clips, stills = inputs[:5], inputs[5:]
    assert [len(x) for x in stills] == [6] * 5 and stills[0].shape[1:] == (CHANNELS, 1, *LATENT[1:])
    assert stills[4].shape == (6, SHORT_TEXT), "long text is for clips alone"
    with torch.no_grad():
        for p in both.pipe.transformer.parameters():
            p.add_(0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
        parts = [flow_loss(both.pipe, *part) for part in (clips, stills)]
        alike(both.denoising_loss(*inputs), sum(parts))
    plain = WanObjective(clip_vae, tmp_path, replace(TINY, stills=0), compile=False)
    alone = plain.inputs(0, 0.0)
    assert len(alone) == 5 and all(torch.equal(a, b) for a, b in zip(alone, clips, strict=True))


def test_a_still_is_read_as_the_first_frame_of_a_clip_at_rest(clip_vae, tmp_path, small_shards):
    rows = StillStream(clip_vae, build_wan(clip_vae).tokenizer, tmp_path, 0, 1, 1).batch(
        0, 4, torch.Generator().manual_seed(0)
    )
    script, movie, mask = training_still(0, 3)
    assert movie.shape == (1, SIDE, SIDE, 3) and script.task in ("single_object", "two_object")
    assert not script.held_out and rows.latents.shape == (4, CHANNELS, 1, *LATENT[1:])
    frames = torch.from_numpy(movie).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    with torch.no_grad():
        alone, clip = (
            normalised(clip_vae, clip_vae.encode(f).latent_dist.mode())
            for f in (frames, frames.expand(-1, -1, 9, -1, -1))
        )
    torch.testing.assert_close(alone, clip[:, :, :1], atol=1e-5, rtol=1e-5)
    assert latent_cover(mask[None]).shape == (1, 1, 1, *LATENT[1:]) and 0 < mask.mean() < 0.7


def test_muon_takes_the_matrices_of_the_blocks(clip_vae, tmp_path):
    objective = WanObjective(clip_vae, tmp_path, replace(TINY, muon_lr=1e-3), compile=False)
    hidden = [k for k, p in objective.parameters().items() if objective.hidden(k) and p.ndim == 2]
    assert len(hidden) == 6 * 10  # two attentions of four matrices and a feed-forward of two


def test_the_autoencoder_learns_and_keeps_its_statistics(tmp_path):
    recipe = WanVAEConfig(samples=120, batch=4, warmup=8, probe=8, stills_until=0.9, short_until=0.95)
    objective = WanVAEObjective(recipe)
    before = measure(objective.vae, 8)["psnr_db"]
    assert fit(objective, tmp_path, Run())
    objective.export(tmp_path)
    vae = AutoencoderKLWan.from_pretrained(tmp_path / "vae")
    movies, cover = clips(0, 0, 8)
    assert movies.shape == (8, 3, 9, 32, 32) and cover.shape == (8, 1, 9, 32, 32)
    with torch.no_grad():
        latents = normalised(vae, vae.encode(movies).latent_dist.mean)
    assert latents.shape == (8, CHANNELS, *LATENT)
    torch.testing.assert_close(latents.mean((0, 2, 3, 4)), torch.zeros(CHANNELS), atol=1e-3, rtol=0)
    torch.testing.assert_close(latents.std((0, 2, 3, 4)), torch.ones(CHANNELS), atol=1e-3, rtol=0)
    assert measure(vae, 8)["psnr_db"] > before + 2
    assert reconstruct(vae, movies[:2], 50).shape == (2, 3, 9, 32, 32)


def test_a_run_goes_from_single_frames_to_whole_clips():
    objective = WanVAEObjective(WanVAEConfig(batch=2, stills_until=0.5, short_until=0.8))
    assert [objective.inputs(0, p)[0].shape[2] for p in (0.0, 0.6, 0.9)] == [1, 5, 9]
    movies, weight, noise = objective.inputs(0, 0.9)
    assert movies.shape == (2, 3, 9, 32, 32) and noise.shape == (2, CHANNELS, *LATENT)
    assert weight.mean().item() == pytest.approx(1) and weight.max() > 2 * weight.min()


@torch.no_grad()
def test_what_single_frames_teach_serves_clips():
    """Before training, a clip at rest is encoded like its first frame, and decoded at its full length."""
    vae = WanVAEObjective(seed=3).vae.eval()
    still = clips(0, 0, 1)[0][:, :, :1]
    once, film = (reconstruct(vae, m, 50) for m in (still, still.expand(-1, -1, 9, -1, -1)))
    torch.testing.assert_close(film, once.expand_as(film), atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("frames", [1, 5])
def test_single_frames_read_as_pictures_give_what_the_host_gives(frames):
    vae = WanVAEObjective(seed=3).vae.eval()
    for p in vae.parameters():
        p.add_(0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    movies = clips(0, 0, 2)[0][:, :, :frames]
    plain = reconstruct(vae, movies, 50)
    single_frames_as_pictures(vae)
    torch.testing.assert_close(reconstruct(vae, movies, 50), plain, atol=1e-5, rtol=1e-5)


def test_prompts_of_the_suites_fit_the_short_text():
    from diffusers_ext.zoo.models.tokenizer import build_tokenizer

    longest = "an orange triangle moves right while an orange square moves left"
    assert parse(longest).crossing and len(build_tokenizer()(longest).input_ids) <= SHORT_TEXT
