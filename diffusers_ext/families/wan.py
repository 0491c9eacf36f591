"""Wan 2.1 and 2.2: video tokens attend to themselves, then to the text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ..core import Layout, Rotary, RunContext, Site
from . import latents, texts
from .base import DispatchProcessor, Family, numbered

if TYPE_CHECKING:
    from diffusers.models.transformers.transformer_wan import WanAttention

TEXT_TOKENS = 512  # text keys in image-to-video models, behind those of the image; fixed in diffusers too


class WanProcessor(DispatchProcessor):
    """Reproduces `WanAttnProcessor` of `diffusers.models.transformers.transformer_wan`.

    In an image-to-video model `attn2` attends to image and to text separately and adds the two. The core gets
    the text branch; the image branch is always that of diffusers.
    """

    def __call__(
        self,
        attn: WanAttention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Compute self-attention if `encoder_hidden_states` is absent, else cross-attention.

        Shapes: `hidden_states [B, N, C]`, `encoder_hidden_states [B, L, C]` with image tokens in front of the
        text if the model takes them; `rotary_emb` is cosine and sine, each `[1, N, 1, D]`. The layout
        describes `hidden_states`, which are the queries, also in cross-attention.
        """
        image = None
        if attn.add_k_proj is not None:
            length = encoder_hidden_states.shape[1] - TEXT_TOKENS - self.run.second_text
            image, encoder_hidden_states = (
                encoder_hidden_states[:, :length],
                encoder_hidden_states[:, length:],
            )

        q, k, v = _project(attn, hidden_states, encoder_hidden_states)
        q, k = attn.norm_q(q), attn.norm_k(k)  # over all heads at once, hence before they are split
        q, k, v = (x.unflatten(2, (attn.heads, -1)) for x in (q, k, v))
        if rotary_emb is not None:
            q, k = _rotate(q, *rotary_emb), _rotate(k, *rotary_emb)

        out = self.attend(q, k, v, attention_mask, self.run.layout)
        out = out.flatten(2, 3).type_as(q)
        if image is not None:
            k, v = _project_image(attn, image)
            out = out + self.dense(q, k, v, None, None).flatten(2, 3).type_as(q)
        return attn.to_out[1](attn.to_out[0](out))


class WanFamily(Family):
    """The family of `WanTransformer3DModel`; Wan 2.2 pipelines hold two of them."""

    name: ClassVar[str] = "wan"
    denoisers: ClassVar[tuple[str, ...]] = ("WanTransformer3DModel",)
    stock: ClassVar[frozenset[str]] = frozenset({"WanAttnProcessor"})
    cfg: ClassVar[Literal["batch", "two_calls"]] = "two_calls"

    def sites(self, model: nn.Module, component: str) -> list[Site]:
        """Return self- and cross-attention of each block in turn."""
        parts = ("attn1", "self"), ("attn2", "cross")
        blocks = enumerate(model.blocks)
        found = ((f"blocks.{i}.{part}", getattr(b, part), kind) for i, b in blocks for part, kind in parts)
        return numbered(found, component, Rotary())

    def processor(self, site: Site, run: RunContext) -> WanProcessor:
        return WanProcessor(site, run)

    def layout(self, model: nn.Module, call: Mapping[str, Any]) -> Layout:
        """Return vision only: frames, rows and columns of `hidden_states [B, C, T, H, W]` in patches."""
        t, h, w = (
            size // p
            for size, p in zip(call["hidden_states"].shape[2:], model.config.patch_size, strict=True)
        )
        words = slice(0, call["encoder_hidden_states"].shape[1])  # image tokens have keys of their own
        return Layout((t, h, w), slice(0, 0), slice(0, t * h * w), cross_text=words)

    def timestep(self, call: Mapping[str, Any]) -> Tensor:
        """Return `[B]`.

        With a timestep per token (Wan 2.2 5B), given frames are at 0 and the rest at the maximum.
        """
        timestep = call["timestep"]
        return timestep.amax(dim=1) if timestep.ndim == 2 else timestep

    def text_parts(self, pipe: Any, prompt: str, call: Mapping[str, Any]) -> tuple[texts.TextPart, ...]:
        """Return the tokens of UMT5, of the prompt as the pipeline cleans it."""
        from diffusers.pipelines.wan.pipeline_wan import prompt_clean

        found = texts.part(pipe, prompt_clean(prompt), "tokenizer", limit=texts.limit(pipe, call))
        return (found,) if found else ()

    def one_text(self, model: nn.Module) -> None:
        """Return `None`: all but attention is token-wise."""

    def text_tokens(self, pipe: Any) -> int:
        """Return 0: the text is in the keys of cross-attention."""
        return 0

    def noise_dtype(self, pipe: Any) -> torch.dtype:
        """Return float32: the pipeline draws in it, whatever the dtype of its denoiser is."""
        return torch.float32

    def noise_shape(self, pipe: Any, call: Mapping[str, Any]) -> tuple[int, ...]:
        """Return `[B, C, T, H, W]`; the pipeline rounds sides down to tokens and frames up to latents."""
        size, px, config = latents.size(pipe, call), latents.spatial(pipe), latents.config_of(pipe)
        _, *patch = config["patch_size"]
        sides = (size[name] // (px * p) * p for name, p in zip(("height", "width"), patch, strict=True))
        frames = size["num_frames"] // latents.temporal(pipe) + 1
        return (latents.rows(call), latents.channels(pipe), frames, *sides)

    def to_autoencoder(self, pipe: Any, x: Tensor, call: Mapping[str, Any]) -> Tensor:
        x = x.to(pipe.vae.dtype)
        mean, std = latents.statistics(pipe.vae, x)
        return x / (1.0 / std) + mean  # divided as in diffusers, for the same bits


def _project(attn: WanAttention, x: Tensor, context: Tensor | None) -> tuple[Tensor, ...]:
    """Project `x` to queries `[B, N, C]`, and `context`, or `x` if there is none, to keys and values."""
    context = x if context is None else context
    if not attn.fused_projections:
        return attn.to_q(x), attn.to_k(context), attn.to_v(context)
    if attn.is_cross_attention:
        return attn.to_q(x), *attn.to_kv(context).chunk(2, dim=-1)
    return attn.to_qkv(x).chunk(3, dim=-1)


def _project_image(attn: WanAttention, image: Tensor) -> tuple[Tensor, Tensor]:
    """Project the conditioning image to keys and values `[B, L, H, D]`."""
    if attn.fused_projections:
        k, v = attn.to_added_kv(image).chunk(2, dim=-1)
    else:
        k, v = attn.add_k_proj(image), attn.add_v_proj(image)
    return attn.norm_added_k(k).unflatten(2, (attn.heads, -1)), v.unflatten(2, (attn.heads, -1))


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate neighbouring channel pairs of `x [B, N, H, D]`; both members of a pair share one angle."""
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos[..., ::2], sin[..., 1::2]
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2).type_as(x)


FAMILY = WanFamily()
