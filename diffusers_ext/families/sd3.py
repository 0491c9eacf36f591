"""Stable Diffusion 3 and 3.5: image and text tokens in one joint sequence, image first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ..core import Layout, RunContext, Site
from ..errors import UnsupportedError
from . import texts
from .base import (
    Family,
    FamilyProcessor,
    FusableSite,
    SDPAProcessor,
    normed,
    numbered,
    split_heads,
    vision_first,
)

if TYPE_CHECKING:
    from diffusers.models.attention_processor import Attention


class JointProcessor(SDPAProcessor):
    """Reproduces `JointAttnProcessor2_0` of `diffusers.models.attention_processor`."""

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Compute joint attention, or image-only attention if there is no text (`attn2` of SD3.5).

        Shapes: `hidden_states [B, N, C]` and `encoder_hidden_states [B, L, C]`, returned in that order.
        diffusers accepts `attention_mask` and ignores it, and so do we.
        """
        q, k, v = self.project(attn, hidden_states, encoder_hidden_states)
        layout = self.run.layout
        if encoder_hidden_states is None and layout is not None and self.reads_layout:
            layout = Layout(layout.grid, slice(layout.vision.stop, layout.vision.stop), layout.vision)
        out = self.attend(q, k, v, None, layout).flatten(2).to(q.dtype)

        if encoder_hidden_states is None:
            return attn.to_out[1](attn.to_out[0](out))
        image, text = out[:, : hidden_states.shape[1]], out[:, hidden_states.shape[1] :]
        if not attn.context_pre_only:
            text = attn.to_add_out(text)
        return attn.to_out[1](attn.to_out[0](image)), text

    def project(self, attn: Attention, image: Tensor, text: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Project to `q, k, v [B, N + L, H, D]`.

        Norms and joins act on `[B, H, N, D]`, as in diffusers; the result is a view with the axes that cores
        take.
        """
        q, k, v = (split_heads(p(image), attn.heads) for p in (attn.to_q, attn.to_k, attn.to_v))
        q, k = normed(attn.norm_q, q), normed(attn.norm_k, k)
        if text is not None:
            added = attn.add_q_proj, attn.add_k_proj, attn.add_v_proj
            text_q, text_k, text_v = (split_heads(p(text), attn.heads) for p in added)
            q = torch.cat([q, normed(attn.norm_added_q, text_q)], dim=2)
            k = torch.cat([k, normed(attn.norm_added_k, text_k)], dim=2)
            v = torch.cat([v, text_v], dim=2)
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)


class FusedJointProcessor(JointProcessor):
    """Reproduces `FusedJointAttnProcessor2_0`, which skips query and key norms even if the model has them."""

    def project(self, attn: Attention, image: Tensor, text: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Project to `q, k, v [B, N + L, H, D]`, with one projection for each stream."""
        streams = attn.to_qkv(image).chunk(3, dim=-1), attn.to_added_qkv(text).chunk(3, dim=-1)
        q, k, v = (torch.cat(x, dim=1).unflatten(-1, (attn.heads, -1)) for x in zip(*streams, strict=True))
        return q, k, v


class SD3Family(Family):
    """The family of `SD3Transformer2DModel`: SD3 and SD3.5, with or without image-only attention."""

    name: ClassVar[str] = "sd3"
    denoisers: ClassVar[tuple[str, ...]] = ("SD3Transformer2DModel",)
    # SD3IPAdapterJointAttnProcessor2_0 holds weights, the PAG ones change the result
    stock: ClassVar[frozenset[str]] = frozenset({"JointAttnProcessor2_0", "FusedJointAttnProcessor2_0"})
    cfg: ClassVar[Literal["batch", "two_calls"]] = "batch"

    def sites(self, model: nn.Module, component: str) -> list[Site]:
        """Return sites layer by layer, the joint attention before the image-only one, as they run."""
        found = []
        for i, block in enumerate(model.transformer_blocks):
            found.append((f"transformer_blocks.{i}.attn", block.attn, "joint"))
            if block.attn2 is not None:
                found.append((f"transformer_blocks.{i}.attn2", block.attn2, "self"))
        return numbered(found, component)

    def processor(self, site: Site, run: RunContext) -> FamilyProcessor:
        """Return the processor of a site.

        Raises `UnsupportedError` for image-only attention of a fused model, which fails in diffusers too.
        """
        if not (isinstance(site, FusableSite) and site.fused):
            return JointProcessor(site, run)
        if site.kind == "self":
            raise UnsupportedError(
                f"The host's fused processor needs text tokens, but {site.path} attends to the image only; "
                "call unfuse_qkv_projections(), then apply again."
            )
        return FusedJointProcessor(site, run)

    def layout(self, model: nn.Module, call: Mapping[str, Any]) -> Layout:
        """Return image tokens in raster order, then text; `hidden_states [B, C, H, W]` are latents."""
        height, width = call["hidden_states"].shape[-2:]
        h, w = height // model.config.patch_size, width // model.config.patch_size
        return vision_first((1, h, w), call)

    def text_tokens(self, pipe: Any) -> int:
        """Count CLIP's tokens and those of T5."""
        return pipe.tokenizer_max_length + super().text_tokens(pipe)

    def text_parts(self, pipe: Any, prompt: str, call: Mapping[str, Any]) -> tuple[texts.TextPart, ...]:
        """Return the tokens of the two CLIPs, side by side in the channels, and behind them those of T5."""
        clip = texts.part(pipe, prompt, "tokenizer", "tokenizer_2")
        if pipe.text_encoder_3 is None:  # zeros are in the place of T5
            return (clip,) if clip else ()
        start, limit = pipe.tokenizer_max_length, texts.limit(pipe, call)
        t5 = texts.part(pipe, prompt, "tokenizer_3", start=start, limit=limit)
        return tuple(found for found in (clip, t5) if found)

    def one_text(self, model: nn.Module) -> None:
        """Return `None`: all but attention is token-wise."""

    def encode_text(self, pipe: Any, text: str, tokens: int) -> Tensor:
        """Encode a text with CLIP's tokens in front, which `max_sequence_length` does not count."""
        return super().encode_text(pipe, text, max(tokens - pipe.tokenizer_max_length, 1))


FAMILY = SD3Family()
