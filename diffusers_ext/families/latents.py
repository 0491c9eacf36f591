"""Read facts about latents off any pipeline: their compression, the usual size, and the autoencoder."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from diffusers.utils.torch_utils import get_module_execution_device
from torch import Tensor

from ..errors import UnsupportedError


def denoiser_of(pipe: Any) -> Any:
    """Return the denoiser of a pipeline, the first if there are two, or `None`."""
    return getattr(pipe, "transformer", None) or getattr(pipe, "unet", None)


def config_of(pipe: Any) -> Mapping[str, Any]:
    """Return the config of the denoiser of a pipeline."""
    return getattr(denoiser_of(pipe), "config", {})


def spatial(pipe: Any) -> int:
    """Return the number of pixels on a side of a latent."""
    return _first(
        pipe,
        "vae_scale_factor_spatial",
        "vae_spatial_scale_factor",
        "vae_spatial_compression_ratio",
        "vae_scale_factor",
    )


def channels(pipe: Any) -> int:
    """Return the number of channels of a latent, as the autoencoder has it, or the denoiser without one."""
    vae = getattr(getattr(pipe, "vae", None), "config", {})
    return vae.get("latent_channels") or vae.get("z_dim") or config_of(pipe)["in_channels"]


def temporal(pipe: Any) -> int:
    """Return the number of frames that a latent frame stands for, after the first."""
    return _first(
        pipe, "vae_scale_factor_temporal", "vae_temporal_scale_factor", "vae_temporal_compression_ratio"
    )


def defaults(pipe: Any) -> dict[str, Any]:
    """Return the defaults of the arguments of `pipe(...)`, by name."""
    return {name: p.default for name, p in inspect.signature(type(pipe).__call__).parameters.items()}


def size(pipe: Any, call: Mapping[str, Any]) -> dict[str, int]:
    """Return `height` and `width` in px and `num_frames` of `pipe(**call)`; an image has one frame."""
    usual, config = defaults(pipe), config_of(pipe)
    side = getattr(pipe, "default_sample_size", None) or config.get("sample_size")
    side = (side[0] if isinstance(side, (tuple, list)) else side or 0) * spatial(pipe)
    sides = {name: usual.get(name) or getattr(pipe, f"default_{name}", side) for name in ("height", "width")}
    found = sides | {"num_frames": usual.get("num_frames") or 1}
    return found | {name: call[name] for name in found if call.get(name) is not None}


def rows(call: Mapping[str, Any]) -> int:
    """Return the number of pictures that `pipe(**call)` makes."""
    prompts = call.get("prompt") if call.get("prompt_embeds") is None else call["prompt_embeds"]
    count = 1 if prompts is None or isinstance(prompts, str) else len(prompts)
    return count * (call.get("num_images_per_prompt") or call.get("num_videos_per_prompt") or 1)


def autoencoder(pipe: Any) -> Any:
    """Return the autoencoder of a pipeline; raises `UnsupportedError` if there is none."""
    if (vae := getattr(pipe, "vae", None)) is None:
        raise UnsupportedError(
            f"Latents become pictures by the autoencoder of a pipeline, got {type(pipe).__name__} without "
            "one; load the pipeline with its vae."
        )
    return vae


def decoded(vae: Any, latents: Tensor) -> Tensor:
    """Decode latents `[B, C, ...]` on the scale of the autoencoder to pictures `[B, 3, ...]` from -1 to 1."""
    return vae.decode(latents.to(get_module_execution_device(vae)), return_dict=False)[0]


def statistics(vae: Any, latents: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return mean and deviation by channel, of the rank of `latents [B, C, ...]`, or `None` if not stated."""
    stated = [getattr(vae.config, name, None) for name in ("latents_mean", "latents_std")]
    if None in stated:
        return None
    shape = 1, -1, *[1] * (latents.ndim - 2)
    mean, std = (torch.tensor(x).view(shape).to(latents.device, latents.dtype) for x in stated)
    return mean, std


def restored(vae: Any, latents: Tensor) -> Tensor:
    """Undo the scaling of latents by the factor of an autoencoder, and by its statistics if it states any."""
    if (known := statistics(vae, latents)) is None:
        return latents / vae.config.scaling_factor
    mean, std = known
    return latents * std / vae.config.scaling_factor + mean


def _first(pipe: Any, *names: str) -> int:
    """Return the first attribute that exists: older and newer pipelines name the same number differently."""
    return next((found for name in names if (found := getattr(pipe, name, None))), 1)
