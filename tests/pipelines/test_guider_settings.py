"""The settings of the guider of modular pipelines: files, checks, and what it does not go with."""

import json

import pytest
import torch
from diffusers.hooks import FirstBlockCacheConfig

import diffusers_ext as dx
from diffusers_ext.processors.head_set import Pick

from ..close import alike
from ..hosts import built, processors
from .modular import FLUX, GUIDED, SD3, WAN, guider

pytestmark = pytest.mark.usefixtures("texts")


def test_settings_survive_files_and_copies(tmp_path):
    ours = guider(
        SD3,
        3.0,
        heads={SD3.layer: {0: 0.5, 2: 1.0}},
        perturbation="temperature",
        temperature=2.0,
        perturb_stop=0.5,
    )
    ours.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "guider_config.json").read_text())["guidance_scale"] == 3.0
    wanted = SD3.run(SD3.build(ours))
    for same in (dx.SoftPAGGuidance.from_pretrained(tmp_path), ours.new()):
        assert same.method == ours.method and same.guidance_scale == 3.0
        assert torch.equal(SD3.run(SD3.build(same)), wanted)
    other = ours.new(perturbation_scale=1.0)
    assert (other.method.scale, other.guidance_scale) == (1.0, 3.0)
    with pytest.raises(TypeError):  # of positions, `new()` of diffusers would forget the values
        dx.SoftPAGGuidance(3.0)


def test_a_head_set_is_saved_as_its_heads(tmp_path):
    found = dx.HeadSet((Pick(SD3.layer, 2, strength=None), Pick(SD3.layer, 0, strength=None)))
    dx.SoftPAGGuidance(heads=found).save_pretrained(tmp_path)
    again = dx.SoftPAGGuidance.from_pretrained(tmp_path)
    assert again.method.heads == {SD3.layer: [0, 2]}


@pytest.mark.parametrize(
    "settings, error, match",
    [
        (
            dict(heads={"transformer_blocks.7.attn": None}),
            dx.MethodError,
            r"nearest names .*transformer_blocks\.1",
        ),
        (dict(heads={SD3.layer: [9]}), dx.MethodError, "has heads 0 to 3, got 9"),
    ],
)
def test_modules_and_heads_are_checked_in_the_first_step(settings, error, match):
    pipe = SD3.build(guider(SD3, **settings))
    before = processors(pipe.transformer)
    with pytest.raises(error, match=match):
        SD3.run(pipe)
    assert processors(pipe.transformer) == before


@pytest.mark.parametrize(
    "settings, match",
    [
        (dict(strength=2.0), "strength must lie in"),
        (dict(perturbation="uniform", scope="image_block"), "by uniform with scope"),
        (dict(guidance_scale=float("nan")), "guidance_scale must be finite, got nan"),
        (dict(start=1.0), "Expected `start` to be between"),
    ],
)
def test_settings_are_checked_at_once(settings, match):
    with pytest.raises(ValueError, match=match):
        dx.SoftPAGGuidance(**settings)


def test_a_denoiser_has_one_guidance():
    """A session and the guider do not share a denoiser, and neither does a cache."""
    pipe = SD3.build(guider(SD3))
    with pytest.raises(dx.UnsupportedError, match=r"the guider of .* is a SoftPAGGuidance"):
        dx.apply(pipe, dx.SoftPAG())
    sparse = dx.GNA((3, 3), backend="reference", dense_steps=0)
    with dx.apply(pipe, sparse), pytest.raises(dx.ConflictError, match="is under a session already"):
        SD3.run(pipe)
    ours, model = guider(WAN, 1.0), WAN.model(WAN.build())
    model.enable_cache(FirstBlockCacheConfig(threshold=0.1))
    ours.set_state(0, 3, torch.tensor(1.0))
    ours.prepare_models(model)
    with pytest.raises(dx.ConflictError, match=r"call disable_cache\(\) first"):
        ours.prepare_models(model)


def test_a_pipeline_without_negative_embeddings_is_told_what_to_do():
    ours = guider(SD3)
    ours.set_state(0, 3, torch.tensor(1.0))
    with pytest.raises(dx.MethodError, match=r"needs an unconditional prediction, but .* guidance_scale=1"):
        ours.prepare_inputs({"hidden_states": torch.zeros(1, 4, 8, 8)})
    ours = guider(SD3, 1.0)
    ours.set_state(0, 3, torch.tensor(1.0))
    names = [batch.__guidance_identifier__ for batch in ours.prepare_inputs({"x": torch.zeros(1)})]
    assert names == ["pred_cond", "pred_cond_perturbed"]


def test_flux_has_no_guider_and_takes_a_session():
    """The modular pipeline gives the latents of the classic one, under the same method."""
    assert "guider" not in FLUX.build()._component_specs and FLUX not in GUIDED
    pipe, method = FLUX.build(), dx.SoftPAG({FLUX.layer: None}, 2.0, 1.0)
    plain = FLUX.run(pipe)
    with dx.apply(pipe, method) as session:
        ours = FLUX.run(pipe)
    assert session.report().extra_passes == 3 and (ours - plain).abs().max() > 1e-3
    host, classic = built("flux")
    with dx.apply(classic, method):
        theirs = host.run(classic)
    alike(ours, classic._unpack_latents(theirs, 32, 48, classic.vae_scale_factor))
