"""The guider of modular pipelines: its results, its windows, and that it leaves nothing behind."""

from dataclasses import replace

import pytest
import torch
from diffusers import ClassifierFreeGuidance, PerturbedAttentionGuidance, StableDiffusion3PAGPipeline
from diffusers.guiders.guider_utils import rescale_noise_cfg
from diffusers.hooks import LayerSkipConfig
from diffusers.hooks.layer_skip import _apply_layer_skip_hook

import diffusers_ext as dx

from ..close import alike
from ..hosts import built, processors
from ..tiny_models import sd3
from .modular import FLUX, PAG, SD3, SDXL, WAN, each_guided, guider, linear

pytestmark = pytest.mark.usefixtures("texts")


def under_session(modular, pipe, cfg, **settings):
    """The same guidance by `dx.apply` beside the linear guider of diffusers."""
    settings = {"scale" if k == "perturbation_scale" else k: v for k, v in (PAG | settings).items()}
    pipe.update_components(guider=linear(cfg))
    with dx.apply(pipe, dx.SoftPAG({modular.layer: None}, **settings)):
        return modular.run(pipe)


ALMOST_ONE = (
    1 + 1e-7
)  # the same up to rounding; at 1 the blocks of Wan need a prediction that they do not make


@pytest.mark.parametrize("cfg", [1.0, 4.0], ids=["plain", "cfg"])
@each_guided
def test_equals_softpag_beside_the_linear_guider(modular, cfg):
    pipe = modular.build(guider(modular, cfg))
    ours = modular.run(pipe)
    cfg = cfg if cfg > 1 or modular is not WAN else ALMOST_ONE
    alike(ours, under_session(modular, pipe, cfg))
    pipe.update_components(guider=linear(cfg))
    assert (ours - modular.run(pipe)).abs().max() > 1e-3


@pytest.mark.parametrize(
    "mode, scope",
    [
        ("uniform", "all"),
        ("segment_mean", "image_rows"),
        ("max", "image_block"),
        ("temperature", "image_rows"),
        ("shuffle", "image_rows"),
    ],
)
def test_every_perturbation(mode, scope):
    more = dict(perturbation=mode, scope=scope, strength=0.7)
    pipe = SD3.build(guider(SD3, **more))
    alike(SD3.run(pipe), under_session(SD3, pipe, 4.0, **more))


@pytest.mark.parametrize("cfg", [1.0, 4.0], ids=["plain", "cfg"])
def test_equals_the_sd3_pag_pipeline(cfg):
    host, classic = built("sd3")
    parts = {k: v for k, v in classic.components.items() if k not in ("image_encoder", "feature_extractor")}
    oracle = StableDiffusion3PAGPipeline(**parts, pag_applied_layers=[r"transformer_blocks\.1"])
    oracle.set_progress_bar_config(disable=True)
    call = dict(cfg=cfg > 1, prompt="a red circle", pag_scale=2.0)
    theirs = host.run(oracle, **call, **({"negative_prompt": "green"} if cfg > 1 else {}))
    ours = SD3.run(SD3.build(guider(SD3, cfg, scope="image_block")))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=2e-5)


def test_equals_the_guider_of_diffusers_where_it_works():
    """A U-Net, with classifier-free guidance, all heads, an explicit path, and after the first step."""
    layers = LayerSkipConfig(
        [0],
        fqn="mid_block.attentions.0.transformer_blocks",
        skip_attention=False,
        skip_attention_scores=True,
        skip_ff=False,
    )
    shipped = PerturbedAttentionGuidance(
        guidance_scale=4.0,
        perturbed_guidance_scale=2.0,
        perturbed_guidance_start=0.0,
        perturbed_guidance_stop=1.0,
        perturbed_guidance_config=layers,
    )
    pipe = SDXL.build(shipped)
    theirs = SDXL.run(pipe)
    pipe.update_components(guider=guider(SDXL, perturb_start=0.34))
    ours = SDXL.run(pipe)
    alike(ours, theirs)
    pipe.update_components(guider=linear(4.0))
    assert (ours - SDXL.run(pipe)).abs().max() > 1e-3


@pytest.mark.parametrize(
    "nothing",
    [
        dict(perturbation_scale=0.0),
        dict(strength=0.0),
        dict(perturbation="temperature", temperature=1.0),
        dict(perturb_start=0.5, perturb_stop=0.5),
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_nothing_to_perturb_is_classifier_free_guidance_bit_for_bit(nothing):
    pipe = SD3.build(linear(4.0))
    plain, calls = SD3.run(pipe), counted(SD3.model(pipe))
    pipe.update_components(guider=guider(SD3, **nothing))
    assert torch.equal(SD3.run(pipe), plain)
    assert len(calls) == 6


def counted(model):
    calls = []
    model.register_forward_hook(lambda *_: calls.append(0))
    return calls


@pytest.mark.parametrize(
    "settings, each",
    [
        ({}, [3, 3, 3, 3]),
        (dict(guidance_scale=1.0), [2, 2, 2, 2]),
        (dict(perturb_start=0.5), [2, 2, 3, 3]),
        (dict(perturb_stop=0.25), [3, 2, 2, 2]),
        (dict(stop=0.5), [3, 3, 2, 2]),
        (dict(start=0.5, perturb_stop=0.5), [2, 2, 2, 2]),
        (dict(enabled=False), [1, 1, 1, 1]),
    ],
)
def test_predictions_of_each_step(settings, each, monkeypatch):
    """A second run has those of the first, whatever its last step was without."""
    ours = guider(SD3, **settings)
    pipe, found = SD3.build(ours), []
    combine = type(ours).__call__
    monkeypatch.setattr(
        type(ours), "__call__", lambda self, data: (found.append(len(data)), combine(self, data))[1]
    )
    first = SD3.run(pipe, num_inference_steps=4)
    assert torch.equal(SD3.run(pipe, num_inference_steps=4), first)
    assert found == each * 2


def test_rescaling_is_that_of_diffusers():
    ours = guider(SD3, 4.0, guidance_rescale=0.7)
    u, c, p = (torch.randn(2, 4, 8, 8) for _ in range(3))
    guided = u + 4.0 * (c - u) + 2.0 * (c - p)
    out = ours.forward(c, u, p)
    torch.testing.assert_close(out.pred, rescale_noise_cfg(guided, c, 0.7))
    assert out.pred_cond is c and out.pred_uncond is u


@each_guided
def test_a_run_leaves_processors_and_forward_as_they_were(modular):
    pipe = modular.build(guider(modular))
    model = modular.model(pipe)
    before, facts = processors(model), set(vars(model))
    modular.run(pipe)
    assert processors(model) == before and set(vars(model)) == facts


@pytest.mark.parametrize(
    "modular, error",
    [(SD3, ValueError), (SD3, KeyboardInterrupt), (SDXL, ValueError), (WAN, ValueError)],
    ids=lambda x: getattr(x, "name", None) or x.__name__,
)
def test_an_exception_in_the_perturbed_call_puts_everything_back(modular, error):
    pipe = modular.build(guider(modular))
    model, plain = modular.model(pipe), None
    before, facts = processors(model), set(vars(model))
    plain = modular.run(pipe)

    def fail(module, *_):
        if type(module.processor).__module__.startswith("diffusers_ext"):
            raise error("out of memory")

    handle = model.get_submodule(modular.layer).register_forward_pre_hook(fail)
    with pytest.raises(error, match="out of memory"):
        modular.run(pipe)
    handle.remove()
    assert processors(model) == before and set(vars(model)) == facts
    assert torch.equal(modular.run(pipe), plain)


def test_what_a_call_that_never_came_left_is_put_back_in_the_next_step():
    ours, model = guider(SD3, 1.0), SD3.model(SD3.build())
    before = processors(model)
    ours.set_state(0, 3, torch.tensor(1.0))
    ours.prepare_models(model)
    ours.prepare_models(model)
    assert processors(model) != before
    ours.set_state(1, 3, torch.tensor(1.0))
    assert processors(model) == before


def test_a_pass_that_perturbs_nothing_is_an_error():
    ours, model = guider(SD3, 1.0), SD3.model(SD3.build())
    before = processors(model)
    ours.set_state(0, 3, torch.tensor(1.0))
    ours.prepare_models(model)
    ours.prepare_models(model)
    with pytest.raises(RuntimeError, match="SD3Transformer2DModel was not called between"):
        ours.cleanup_models(model)
    assert processors(model) == before
    pipe = SD3.build(guider(SD3))
    block = pipe.transformer.transformer_blocks[1]
    block.forward = lambda hidden_states, encoder_hidden_states, **_: (encoder_hidden_states, hidden_states)
    with pytest.raises(dx.ConflictError, match=r"forward of .*transformer_blocks\.1 was replaced"):
        SD3.run(pipe)


def test_a_pass_that_perturbs_a_part_of_the_layers_is_an_error():
    layers = {f"transformer_blocks.{number}.attn": None for number in range(2)}
    pipe = SD3.build(guider(SD3, heads=layers))
    first = SD3.model(pipe).transformer_blocks[0].attn
    stock = first.processor
    SD3.model(pipe).register_forward_pre_hook(lambda *_: setattr(first, "processor", stock))
    with pytest.raises(RuntimeError, match=r"did not run transformer_blocks\.0\.attn, which were"):
        SD3.run(pipe)


@pytest.mark.parametrize("mode, scope", [("identity", "image_rows"), ("max", "image_block")])
def test_autocast(mode, scope):
    """Attention is in bfloat16 there, while latents and text are in float32."""
    pipe = SD3.build(guider(SD3, perturbation=mode, scope=scope))
    wanted = SD3.run(pipe, num_inference_steps=1)
    with torch.autocast("cpu", torch.bfloat16):
        ours = SD3.run(pipe, num_inference_steps=1)
    torch.testing.assert_close(ours.float(), wanted, rtol=0, atol=0.1)


@pytest.mark.slow
def test_compiled_blocks():
    """Processors come and go; that costs the graphs of a perturbed pass, once."""
    pipe = SD3.build(guider(SD3))
    eager = SD3.run(pipe)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    for block in pipe.transformer.transformer_blocks:
        block.compile(fullgraph=True, backend="eager")
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        first = SD3.run(pipe)
        graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        assert torch.equal(SD3.run(pipe), first)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs <= 4
    torch.testing.assert_close(first, eager, rtol=1e-4, atol=1e-5)
    torch._dynamo.reset()


def test_the_list_of_what_it_avoids():
    """What docs/softpag.md says of diffusers holds for the pinned version; what is mended should leave it."""
    config = LayerSkipConfig(
        [0],
        "mid_block.attentions.0.transformer_blocks",
        skip_attention=False,
        skip_attention_scores=True,
        skip_ff=False,
    )
    everywhere = dict(perturbed_guidance_start=0.0, perturbed_guidance_stop=1.0)
    for modular, why in ((SD3, "JointAttnProcessor2_0"), (WAN, "WanAttnProcessor")):
        with pytest.raises(ValueError, match=why):
            modular.run(
                modular.build(PerturbedAttentionGuidance(perturbed_guidance_layers=[1], **everywhere))
            )
    hooked = replace(config, fqn="transformer_blocks")
    with pytest.raises(AttributeError, match="is_cross_attention"):
        _apply_layer_skip_hook(FLUX.model(FLUX.build()), hooked, name="pag")
    shipped = PerturbedAttentionGuidance(
        guidance_scale=1.0, perturbed_guidance_scale=3.0, perturbed_guidance_config=config, **everywhere
    )
    pipe = SDXL.build(shipped)
    without_cfg = SDXL.run(pipe)
    pipe.update_components(guider=linear(3.0, start=0.34))  # from the second of three steps on
    alike(without_cfg, SDXL.run(pipe))
    assert ClassifierFreeGuidance(3.0).new().guidance_scale == 7.5
    parts = {k: v for k, v in sd3.pipeline(num_layers=12).components.items() if v is not None}
    classic = StableDiffusion3PAGPipeline(**parts)
    classic._set_pag_attn_processor(classic.pag_applied_layers, do_classifier_free_guidance=False)
    found = [n for n, p in processors(classic.transformer).items() if type(p).__name__.startswith("PAG")]
    assert found == [f"transformer_blocks.{i}.attn" for i in (1, 10, 11)]
