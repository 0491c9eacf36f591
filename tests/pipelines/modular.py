"""Modular pipelines of diffusers over tiny models, with the call that runs them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from diffusers import ClassifierFreeGuidance
from diffusers.modular_pipelines import (
    FluxAutoBlocks,
    StableDiffusion3AutoBlocks,
    StableDiffusionXLAutoBlocks,
    WanBlocks,
)
from torch import Tensor, nn

import diffusers_ext as dx

from ..tiny_models import flux, sd3, unet, wan

PAG = dict(perturbation_scale=2.0, strength=1.0)


@dataclass(frozen=True)
class Modular:
    """Blocks, a pipeline whose components they get, the arguments of a call, and a layer to perturb."""

    name: str
    blocks: Callable[[], Any]
    parts: Callable[[], Any]
    call: dict[str, Any]
    layer: str
    denoiser: str = "transformer"

    def build(self, guider: Any = None) -> Any:
        parts, pipe = self.parts().components, self.blocks().init_pipeline()
        pipe.update_components(**{name: parts[name] for name in pipe._component_specs if name in parts})
        if guider is not None:
            pipe.update_components(guider=guider)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def model(self, pipe: Any) -> nn.Module:
        return getattr(pipe, self.denoiser)

    def run(self, pipe: Any, **call: Any) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        fixed = dict(prompt="a red circle", num_inference_steps=3, generator=generator, output="latents")
        return pipe(**fixed | self.call | call)


NEGATIVE = dict(negative_prompt="green")
SD3 = Modular(
    "sd3",
    StableDiffusion3AutoBlocks,
    sd3.pipeline,
    dict(height=32, width=48, max_sequence_length=16, **NEGATIVE),
    "transformer_blocks.1.attn",
)
SDXL = Modular(
    "sdxl",
    StableDiffusionXLAutoBlocks,
    lambda: unet.pipeline(sdxl=True),
    dict(height=32, width=32, **NEGATIVE),
    "mid_block.attentions.0.transformer_blocks.0.attn1",
    "unet",
)
WAN = Modular(
    "wan",
    WanBlocks,
    wan.pipeline,
    dict(height=32, width=32, num_frames=5, max_sequence_length=16, **NEGATIVE),
    "blocks.1.attn1",
)
FLUX = Modular(
    "flux",
    FluxAutoBlocks,
    flux.pipeline,
    dict(height=32, width=48, max_sequence_length=16),
    "single_transformer_blocks.1.attn",
)
GUIDED = [SD3, SDXL, WAN]  # those with a guider
each_guided = pytest.mark.parametrize("modular", GUIDED, ids=lambda m: m.name)


def linear(scale: float, **more: Any) -> ClassifierFreeGuidance:
    return ClassifierFreeGuidance(guidance_scale=scale, **more)


def guider(modular: Modular, guidance_scale: float = 4.0, **settings: Any) -> Any:
    """Return our guider with a perturbed pass in the layer of a pipeline."""
    return dx.SoftPAGGuidance(
        guidance_scale=guidance_scale, **PAG | {"heads": {modular.layer: None}} | settings
    )
