"""Who calls the denoiser: pipelines and guiders whose branches are known are guided right, others refused."""

import ast
import copy
import inspect
import re
import types
import warnings
from pathlib import Path

import diffusers
import pytest
import torch
from diffusers import (
    StableDiffusion3PAGPipeline,
    StableDiffusionPAGPipeline,
    StableDiffusionPanoramaPipeline,
    StableDiffusionXLPAGPipeline,
)
from diffusers.guiders import BaseGuidance

import diffusers_ext as dx
from diffusers_ext.branches import LINEAR_GUIDERS, UNREADABLE
from diffusers_ext.families import FAMILIES

from .hosts import host, processors
from .test_ip_adapter import EMBEDDING, adapter
from .tiny_models import flux, sd3, unet, wan

MID = "mid_block.attentions.0.transformer_blocks.0.attn1"


def pipelines_of_known_denoisers():
    """Name and source of each pipeline of the host that holds a denoiser of a known class."""
    known = "|".join(FAMILIES)
    for path in sorted(Path(diffusers.__file__).parent.glob("pipelines/**/*.py")):
        text = path.read_text(encoding="utf-8")
        if not re.search(known, text):
            continue
        for node in ast.parse(text).body:
            if isinstance(node, ast.ClassDef) and node.name.endswith("Pipeline"):
                functions = {f.name: f for f in node.body if isinstance(f, ast.FunctionDef)}
                if {"__init__", "__call__"} <= functions.keys():
                    init = ast.get_source_segment(text, functions["__init__"])
                    if re.search(rf"\b(unet|transformer)\w*: [^,\n]*\b({known})", init):
                        yield node.name, ast.get_source_segment(text, functions["__call__"])


def test_every_pipeline_with_other_branches_is_in_the_list():
    """Signs in the source: more than two parts of a prediction, or several calls beside one batch."""
    found = dict(pipelines_of_known_denoisers())
    assert len(found) > 100
    # Read one by one: the second call is that of the other branch, of skip-layer guidance, or of another kind
    # of denoiser in an if.
    fine = {"StableDiffusion3Pipeline", "AudioDiffusionPipeline", "StableDiffusionGLIGENTextImagePipeline"}
    for name, source in found.items():
        parts = re.findall(r"pred\w*\.chunk\(\s*(\d)", source) + ["9"] * len(
            re.findall(r"\.chunk\(2 \+", source)
        )
        calls = len(re.findall(r"self\.(?:unet|transformer)\(", source))
        batch = ".chunk(2" in source
        odd = any(n not in ("1", "2") for n in parts) or (batch and calls > 1)
        listed = any(part in name for part in UNREADABLE)
        assert listed or not odd or name in fine, f"{name}: {parts} parts, {calls} calls"


def test_a_panorama_is_refused_by_name_however_it_is_called():
    pipe = StableDiffusionPanoramaPipeline(**unet.pipeline().components, requires_safety_checker=False)
    for cfg in ("auto", "batch"):
        with pytest.raises(dx.UnsupportedError, match=r"StableDiffusionPanoramaPipeline .*overlapping views"):
            dx.apply(pipe, dx.SoftPAG(), cfg=cfg)
    dx.apply(pipe, dx.CLEAR(radius=2)).close()  # sparse methods need no branches


def test_rows_in_another_order_are_refused():
    """A pipeline that puts each conditional row behind its unconditional one."""
    h = host("sd")
    pipe = h.build()

    class Interleaved(type(pipe)):
        def __call__(self, rows):
            self.scheduler.set_timesteps(2)
            self._guidance_scale = 4.0
            call = unet.inputs(4)
            return self.unet(**call | {"sample": rows, "timestep": self.scheduler.timesteps[0]})[0]

    pipe = Interleaved(**pipe.components, requires_safety_checker=False)
    rows = unet.inputs(2)["sample"]
    with dx.apply(pipe, dx.SoftPAG()) as session:
        pipe(torch.cat([rows, rows]))
        assert session.report().extra_passes == 1
    with dx.apply(pipe, dx.SoftPAG()), pytest.raises(dx.UnsupportedError, match="halves of the batch"):
        pipe(rows.repeat_interleave(2, 0))


@pytest.mark.parametrize("name", ["sd", "sdxl"])
def test_rescaled_guidance_is_refused(name):
    h = host(name)
    pipe = h.build()
    with dx.apply(pipe, dx.SoftPAG(heads={h.layer: None})):
        with pytest.raises(dx.UnsupportedError, match=r"rescales them \(guidance_rescale=0.7\)"):
            h.run(pipe, cfg=True, guidance_rescale=0.7)
        h.run(pipe, cfg=True, guidance_rescale=0.0)
        h.run(pipe, guidance_rescale=0.7)  # without guidance nothing is rescaled


# guiders of modular pipelines -------------------------------------------------------------------------------


def guiders():
    from diffusers import guiders as module

    kinds = [getattr(module, name) for name in dir(module)]
    return [k for k in kinds if isinstance(k, type) and issubclass(k, BaseGuidance) and k is not BaseGuidance]


def modular(guider, monkeypatch):
    from diffusers.modular_pipelines import WanBlocks
    from diffusers.modular_pipelines.wan import encoders

    # ftfy only mends broken unicode; it is an extra of the host
    monkeypatch.setattr(encoders, "ftfy", types.SimpleNamespace(fix_text=lambda text: text), raising=False)
    parts = wan.pipeline().components
    pipe = WanBlocks().init_pipeline()
    names = ("vae", "text_encoder", "tokenizer", "transformer", "scheduler")
    pipe.update_components(**{name: parts[name] for name in names}, guider=guider)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def run_modular(pipe, steps=3):
    return pipe(
        prompt="a",
        negative_prompt="b",
        height=32,
        width=32,
        num_frames=5,
        num_inference_steps=steps,
        generator=torch.Generator().manual_seed(0),
        output="latents",
        max_sequence_length=16,
    )


@pytest.mark.parametrize("kind", guiders(), ids=lambda kind: kind.__name__)
def test_guiders_are_linear_or_refused_by_name(kind, monkeypatch):
    known = inspect.signature(kind).parameters
    settings = {name: [0] for name in known if name.endswith("_layers")} | {
        "guidance_scale": 4.0,
        "dropout": 0.1,
    }
    try:
        guider = kind(**{name: value for name, value in settings.items() if name in known})
    except ImportError:
        pytest.skip(f"{kind.__name__} of the host needs kornia")
    pipe = modular(guider, monkeypatch)
    method = dx.SoftPAG(heads={"blocks.1.attn1": None}, scale=2.0, strength=1.0)
    if kind.__name__ not in LINEAR_GUIDERS:
        with pytest.raises(
            dx.UnsupportedError, match=f"the guider of WanModularPipeline is a {kind.__name__}"
        ):
            dx.apply(pipe, method)
        return
    seen, forward = {}, type(guider).forward

    def note(self, pred_cond, pred_uncond=None):
        out = forward(self, pred_cond=pred_cond, pred_uncond=pred_uncond)
        seen.setdefault("pred", []).append(out.pred)
        return out

    monkeypatch.setattr(kind, "forward", note)
    run_modular(pipe, steps=1)
    with dx.apply(pipe, method) as session:
        run_modular(pipe, steps=1)
    assert (session.report().denoiser_calls, session.report().extra_passes) == (2, 1)
    plain, guided = seen["pred"]
    # The same model by hand: what the method adds to the first prediction is w (c - p), once.
    with dx.apply(pipe.transformer, method):
        pass
    calls = []
    handle = pipe.transformer.register_forward_hook(
        lambda m, a, k, o: calls.append((k, o[0])), with_kwargs=True
    )
    run_modular(pipe, steps=1)
    handle.remove()
    call, cond = calls[0]
    with dx.apply(pipe.transformer, method):
        bare = pipe.transformer(**call | {"return_dict": False})[0]
    torch.testing.assert_close(guided - plain, bare - cond, rtol=1e-3, atol=1e-4)
    assert (bare - cond).abs().max() > 1e-3


@pytest.mark.parametrize("config", [{"guidance_rescale": 0.5}], ids=["rescaled"])
def test_a_linear_guider_with_other_settings_is_refused_also_after_apply(config, monkeypatch):
    linear = diffusers.ClassifierFreeGuidance(guidance_scale=4.0)
    pipe = modular(diffusers.ClassifierFreeGuidance(guidance_scale=4.0, **config), monkeypatch)
    with pytest.raises(dx.UnsupportedError, match="the guider of WanModularPipeline rescales them"):
        dx.apply(pipe, dx.SoftPAG())
    pipe.update_components(guider=linear)
    with dx.apply(pipe, dx.SoftPAG(heads={"blocks.1.attn1": None})) as session:
        run_modular(pipe)
        assert (session.report().denoiser_calls, session.report().extra_passes) == (6, 3)
        pipe.update_components(guider=diffusers.ClassifierFreeGuidance(guidance_scale=4.0, **config))
        with pytest.raises(dx.UnsupportedError, match="rescales them"):
            run_modular(pipe)


def test_a_third_call_at_a_point_is_refused():
    model, call = flux.transformer(), flux.inputs(1)
    with dx.apply(model, dx.SoftPAG(), cfg="two_calls"):
        model(**call)
        model(**call)
        with pytest.raises(dx.UnsupportedError, match="called the denoiser a third time"):
            model(**call)


# the host's own perturbed-attention guidance ----------------------------------------------------------------


def pag_pipelines():
    sd = unet.pipeline().components
    yield StableDiffusionPAGPipeline(**sd, requires_safety_checker=False), host("sd"), {}
    xl = host("sdxl")
    yield StableDiffusionXLPAGPipeline(**xl.build().components, add_watermarker=False), xl, {}
    three = host("sd3")
    parts = {k: v for k, v in three.build().components.items() if v is not None}
    yield StableDiffusion3PAGPipeline(**parts, pag_applied_layers="blocks.1"), three, three.extra


@pytest.mark.parametrize("number", range(3), ids=["sd", "sdxl", "sd3"])
@pytest.mark.parametrize("kind", ["guidance", "sparse"])
def test_a_refused_pag_pipeline_goes_on_to_work(number, kind):
    """The host puts its processors in before the first step and takes them out after the last one only."""
    pipe, h, extra = list(pag_pipelines())[number]
    pipe.set_progress_bar_config(disable=True)
    method = dx.SoftPAG(heads={h.layer: None}) if kind == "guidance" else dx.GNA((3, 3), backend="reference")
    run = dict(prompt="a", num_inference_steps=2, guidance_scale=4.0, output_type="latent", return_dict=False)

    def call(**more):
        return pipe(**run, **h.size, **extra, generator=torch.Generator().manual_seed(0), **more)[0]

    plain, pag = call(pag_scale=0), call(pag_scale=3.0)
    with warnings.catch_warnings(), dx.apply(pipe, method) as session:
        warnings.filterwarnings("error", "diffusers_ext")
        with pytest.raises(dx.ConflictError, match="set pag_scale=0 or use the pipeline without PAG"):
            call()
        inside = call(pag_scale=0)
        assert not torch.equal(inside, plain)
        if kind == "guidance":
            assert session.report().extra_passes == 2
    assert torch.equal(plain, call(pag_scale=0)) and torch.equal(pag, call(pag_scale=3.0))


# what is put on the denoiser besides the session ------------------------------------------------------------


def wrapped(model):
    inner = model.forward
    model.forward = lambda *args, **kwargs: inner(*args, **kwargs)


def compiled(model):
    model.forward = torch.compile(model.forward, backend="eager", dynamic=False)


@pytest.mark.parametrize(
    ("wrap", "kind"), [(wrapped, "guidance"), (wrapped, "sparse"), (compiled, "guidance")]
)
def test_a_wrapper_that_outlives_the_session_finds_the_plain_model(wrap, kind):
    h = host("sd3")
    pipe = h.build()
    plain = h.run(pipe, steps=1)
    method = (
        dx.SoftPAG(heads={h.layer: None}) if kind == "guidance" else dx.CLEAR(radius=2, backend="reference")
    )
    session = dx.apply(pipe, method)
    want = h.run(pipe, steps=1)
    wrap(pipe.transformer)
    assert torch.equal(want, h.run(pipe, steps=1))
    with pytest.warns(UserWarning, match="forward was replaced after apply"):
        session.close()
    assert torch.equal(plain, h.run(pipe, steps=1))


@pytest.mark.parametrize("wrap", [torch.compile, "peft"], ids=["torch.compile", "PEFT"])
def test_a_denoiser_wrapped_after_apply_ran_with_its_methods(wrap, recwarn):
    h = host("sd")
    pipe = h.build()
    session = dx.apply(pipe, dx.SoftPAG(heads={MID: None}))
    if wrap == "peft":
        from peft import LoraConfig, get_peft_model

        pipe.unet = get_peft_model(pipe.unet, LoraConfig(r=2, target_modules=["to_q"]))
    else:
        pipe.unet = wrap(pipe.unet, backend="eager")
    session.close()
    assert not [w for w in recwarn if "was exchanged" in str(w.message)]


def feature_cache(pipe):
    """Keeps the output of the middle block for three steps, as DeepCache keeps that of the inner blocks."""
    mid, memo = pipe.unet.mid_block, {}
    forward = mid.forward

    def cached(*args, **kwargs):
        index = pipe.scheduler.timesteps.tolist().index(memo["now"])
        if "kept" not in memo or index % 3 == 0:
            memo["kept"] = forward(*args, **kwargs)
        return memo["kept"]

    inner = pipe.unet.forward

    def outer(sample, timestep, *args, **kwargs):
        memo["now"] = timestep.item()
        return inner(sample, timestep, *args, **kwargs)

    mid.forward, pipe.unet.forward = cached, outer


@pytest.mark.parametrize("cfg", [False, True], ids=["plain", "cfg"])
def test_a_foreign_cache_is_refused_before_and_after_apply(cfg):
    h = host("sd")
    pipe = h.build()
    feature_cache(pipe)
    h.run(pipe, cfg=cfg)
    with pytest.raises(dx.ConflictError, match="forward of UNet2DConditionModel was replaced"):
        dx.apply(pipe, dx.SoftPAG())
    pipe = h.build()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # close() says that forward was replaced
        with dx.apply(pipe, dx.SoftPAG()):
            feature_cache(pipe)
            with pytest.raises(
                dx.ConflictError, match=r"forward of UNet2DConditionModel\.mid_block was replaced"
            ):
                h.run(pipe, cfg=cfg)


def test_the_extra_pass_gets_its_arguments_as_they_came():
    """Wrappers below ours read positions; torch.compile is one that is allowed."""
    model, call = unet.unet(), unet.inputs(1)
    seen = []
    handle = model.mid_block.register_forward_pre_hook(lambda *_: seen.append(1))
    model.forward = torch.compile(model.forward, backend="eager", disable=True)
    with dx.apply(model, dx.SoftPAG()) as session:
        listed = model(call["sample"], call["timestep"], call["encoder_hidden_states"], return_dict=False)[0]
        named = model(**call)[0]
    handle.remove()
    assert torch.equal(listed, named) and session.report().extra_passes == 2 and len(seen) == 4


def test_masks_of_two_ip_adapters_in_one_tensor_are_not_cut_into_rows():
    pipe = unet.pipeline()
    pipe.unet._load_ip_adapter_weights([adapter(pipe.unet)] * 2)
    pipe.set_ip_adapter_scale([0.7, 0.7])
    embeds = [torch.randn(2, 1, EMBEDDING, generator=torch.Generator().manual_seed(i)) for i in (1, 2)]
    masks = torch.ones(2, 1, 32, 32)
    masks[1, :, :16] = 0

    def call(masks):
        return pipe(
            "a",
            height=32,
            width=32,
            guidance_scale=4.0,
            num_inference_steps=2,
            ip_adapter_image_embeds=embeds,
            cross_attention_kwargs={"ip_adapter_masks": masks},
            generator=torch.Generator().manual_seed(0),
            output_type="latent",
            return_dict=False,
        )[0]

    with dx.apply(pipe, dx.SoftPAG(heads={MID: None})) as session:
        one, listed = call(masks), call([masks[:1], masks[1:]])
    assert torch.equal(one, listed) and session.report().extra_passes == 4


# sentences --------------------------------------------------------------------------------------------------


def test_a_wrapped_denoiser_is_told_where_the_denoiser_is():
    from peft import LoraConfig, get_peft_model

    h = host("sd")
    pipe = h.build()
    pipe.unet = get_peft_model(pipe.unet, LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False))
    with pytest.raises(dx.UnsupportedError, match=r"set pipe\.unet = pipe\.unet\.base_model\.model"):
        dx.apply(pipe, dx.SoftPAG())
    pipe.unet = pipe.unet.base_model.model
    plain = h.run(pipe)
    with dx.apply(pipe, dx.SoftPAG(heads={MID: None})):
        assert not torch.equal(plain, h.run(pipe))
    assert torch.equal(plain, h.run(pipe))


@pytest.mark.parametrize(
    ("build", "hint"),
    [
        (sd3.transformer, r"for block in model\.transformer_blocks: block\.compile\(\)"),
        (flux.transformer, r"model\.compile_repeated_blocks\(\)"),
        (unet.unet, r"model\.compile_repeated_blocks\(\)"),
    ],
    ids=["sd3", "flux", "unet"],
)
def test_the_hint_on_compiling_works_for_the_model(build, hint):
    with pytest.raises(dx.UnsupportedError, match=hint):
        dx.apply(torch.compile(build(), backend="eager"), dx.SoftPAG())
    model = build()
    if "repeated" in hint:
        model.compile_repeated_blocks(backend="eager")
    else:
        for block in model.transformer_blocks:
            block.compile(backend="eager")
    dx.apply(model, dx.SoftPAG()).close()


def test_a_class_without_brackets_gets_a_sentence():
    with pytest.raises(dx.MethodError, match=r"got the class SoftPAG; add brackets: SoftPAG\(\)"):
        dx.apply(sd3.transformer(), dx.SoftPAG)


@pytest.mark.parametrize("name", ["sd", "wan2.2"])
def test_remove_takes_off_what_nobody_has_a_name_for(name):
    h = host(name)
    pipe = h.build()
    plain, before = h.run(pipe), [processors(m) for m in (pipe.components.values()) if hasattr(m, "modules")]
    dx.remove(pipe)
    dx.apply(pipe, dx.SoftPAG(heads={h.layer: None}))
    with pytest.raises(dx.ConflictError, match=r"take the first off with its close\(\) or dx\.remove\(\)"):
        dx.apply(pipe, dx.SoftPAG())
    dx.remove(copy.copy(pipe))  # any pipeline around the denoiser will do
    assert torch.equal(plain, h.run(pipe))
    assert before == [processors(m) for m in (pipe.components.values()) if hasattr(m, "modules")]
    dx.remove(pipe)


def test_a_session_shows_what_is_on():
    pipe = host("sd3").build()
    session = dx.apply(pipe, dx.SoftPAG(scale=2.5))
    assert repr(session).startswith("<Session open, on transformer: SoftPAG(") and "scale=2.5" in repr(
        session
    )
    page = session._repr_html_()
    assert page.startswith("<details>") and "&lt;Session open" in page and "dx.remove(pipe)" in page
    session.close()
    assert "closed" in repr(session)
