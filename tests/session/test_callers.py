"""Pipelines whose branches are known are guided right, and others are refused."""

import ast
import re
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

import diffusers_ext as dx
from diffusers_ext.families import FAMILIES
from diffusers_ext.session.cfg import UNREADABLE

from ..hosts import built, host
from ..tiny_models import unet


def pipelines_of_known_denoisers():
    """Name and source of each diffusers pipeline that holds a denoiser of a known class."""
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
    pipe = host("sd").build()

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
    h, pipe = built(name)
    with dx.apply(pipe, dx.SoftPAG(heads={h.layer: None})):
        with pytest.raises(dx.UnsupportedError, match=r"rescales them \(guidance_rescale=0.7\)"):
            h.run(pipe, cfg=True, guidance_rescale=0.7)
        h.run(pipe, cfg=True, guidance_rescale=0.0)
        h.run(pipe, guidance_rescale=0.7)  # without guidance nothing is rescaled


# perturbed-attention guidance of diffusers ------------------------------------------------------------------


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
    """diffusers puts its processors in before the first step and takes them out only after the last."""
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
