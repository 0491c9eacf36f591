"""Requests beyond memory are refused before anything runs; what memory there is, is made up here."""

from dataclasses import replace

import pytest
import torch

import diffusers_ext as dx
from diffusers_ext.models import memory
from diffusers_ext.models.sizes import cut_of
from diffusers_ext.sampling.call import arguments
from tests.hosts import built
from tests.tiny_models import sd3, unet, wan


def test_a_million_px_is_refused_with_what_fits(refused, tmp_path):
    line = refused("generate", "a red circle", "-m", "shapes-sd", "--height", 10**6, "--out", tmp_path)
    assert "beside the model for height 1000000, and" in line and "are free on cpu" in line
    assert "with width 64 the largest height that may fit is " in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("build, size, name", [
    (unet.pipeline, {"height": 64, "width": 80}, "width"),
    (sd3.pipeline, {"height": 64, "width": 32}, "height"),
    (wan.pipeline, {"height": 32, "width": 32, "num_frames": 65}, "num_frames"),
])  # fmt: skip
def test_the_largest_that_fits_is_the_largest(monkeypatch, build, size, name):
    pipe = build()
    usual = dict.fromkeys(("height", "width"), 32) | ({"num_frames": 5} if "num_frames" in size else {})
    tokens = cut_of(pipe)
    once, each = memory.decoder_bytes(pipe.vae, "num_frames" in size)
    decoding = int(size["height"] * size["width"] * (once + each * size.get("num_frames", 1)))
    needed = max(decoding, memory.denoiser_bytes(pipe, tokens, size))
    assert decoding > 0
    monkeypatch.setattr(memory, "PLENTY", 10**9)
    monkeypatch.setattr(memory, "cut_of", lambda pipe: replace(tokens, **usual))
    monkeypatch.setattr(memory, "free_bytes", lambda device: needed)
    memory.check(pipe, size)
    monkeypatch.setattr(memory, "free_bytes", lambda device: needed - 1)
    with pytest.raises(ValueError, match=f"the largest {name} that may fit is") as caught:
        memory.check(pipe, size)
    largest = int(str(caught.value).rsplit(" ", 1)[1])
    assert largest < size[name]
    memory.check(pipe, size | {name: largest})


@pytest.mark.parametrize("name", ["sd", "flux", "wan", "hunyuan-video", "mochi"])
def test_an_autoencoder_needs_what_was_measured_at_other_sizes(name):
    """The figure from a few latents holds for more of them: it grows with pixels and frames, and not else."""
    tiny, pipe = built(name)
    side, frames = memory.SMALL
    once, each = memory.decoder_bytes(pipe.vae, tiny.video)
    found, count = memory._peak(pipe.vae, 3 * side, *([frames + 2] if tiny.video else []))
    assert once + each * (count if tiny.video else 0) == pytest.approx(found, rel=0.15)


def test_tiles_need_no_room():
    pipe = unet.pipeline()
    pipe.vae.enable_tiling()
    assert memory.decoder_bytes(pipe.vae, False) == (0, 0)


def test_free_memory_is_that_of_this_machine():
    free = memory.free_bytes(torch.device("cpu"))
    assert 2**27 < free < 2**50
    assert memory.free_bytes(torch.device("meta")) is None


def test_usual_sizes_are_not_looked_at(monkeypatch):
    monkeypatch.setattr(memory, "decoder_bytes", lambda *_: pytest.fail("an autoencoder was measured"))
    arguments(dx.load("shapes-sd"), {}, height=128)
