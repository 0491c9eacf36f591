"""Build the tiny networks: stock diffusers and transformers classes, only narrow and shallow."""

from .clip import build_processor, build_reward
from .components import (
    CLIP_WIDTHS,
    CONTEXT_WIDTH,
    LATENT_CHANNELS,
    LATENT_SIZE,
    build_clip,
    build_t5,
    build_vae,
    normalise,
)
from .sd import build_ddim, build_sd
from .sd3 import build_sd3, refine, start_as_identity
from .wan import build_wan, build_wan_vae

__all__ = [
    "CLIP_WIDTHS",
    "CONTEXT_WIDTH",
    "LATENT_CHANNELS",
    "LATENT_SIZE",
    "build_clip",
    "build_ddim",
    "build_processor",
    "build_reward",
    "build_sd",
    "build_sd3",
    "build_t5",
    "build_vae",
    "build_wan",
    "build_wan_vae",
    "normalise",
    "refine",
    "start_as_identity",
]
