"""Share flow matching, with text of SD3 models read exactly as the stock pipeline reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline, StableDiffusion3Pipeline

TRAINED = ("transformer", "text_encoder", "text_encoder_2", "text_encoder_3")


def encode(
    pipe: StableDiffusion3Pipeline, ids: torch.Tensor, t5_ids: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return context [B, 24 + L, 160] and pooled text [B, 160] from CLIP ids [B, 24] and T5 ids [B, L]."""
    first = pipe.text_encoder(ids, output_hidden_states=True)
    second = pipe.text_encoder_2(ids, output_hidden_states=True)
    clip = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], -1)
    t5 = pipe.text_encoder_3(t5_ids)[0]
    return torch.cat([clip, t5], 1), torch.cat([first.text_embeds, second.text_embeds], -1)


def velocity(
    pipe: DiffusionPipeline,
    transformer: torch.nn.Module,
    latents: torch.Tensor,
    noise: torch.Tensor,
    sigma: torch.Tensor,
    context: torch.Tensor,
    pooled: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return what `transformer` predicts at x = (1 - sigma) latents + sigma noise, of the same shape."""
    s = sigma.view(-1, *[1] * (latents.ndim - 1))
    text = {} if pooled is None else {"pooled_projections": pooled}
    return transformer(
        hidden_states=(1 - s) * latents + s * noise,
        timestep=sigma * pipe.scheduler.config.num_train_timesteps,
        encoder_hidden_states=context,
        return_dict=False,
        **text,
    )[0]


def lengthen(ids: torch.Tensor, length: int, pad: int) -> torch.Tensor:
    """Return ids [B, 24] padded to [B, length]: what the tokenizer would give at that max_length."""
    return torch.nn.functional.pad(ids, (0, length - ids.shape[1]), value=pad)
