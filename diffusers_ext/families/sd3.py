"""Stable Diffusion 3 and 3.5: image and text tokens in one joint sequence, image first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ..core import Layout, RunContext, Site
from ..errors import UnsupportedError
from .base import Family, FamilyProcessor, SDPAProcessor, split_heads

if TYPE_CHECKING:
    from diffusers.models.attention_processor import Attention


@dataclass(frozen=True, slots=True)
class SD3Site(Site):
    """A site of SD3; `fused` says that diffusers runs its fused processor here.

    It is read off the processor, since the flag `fused_projections` of the module stays set after unfusing.
    """

    fused: bool = False


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
        q = split_heads(attn.to_q(image), attn.heads)
        k = split_heads(attn.to_k(image), attn.heads)
        v = split_heads(attn.to_v(image), attn.heads)
        if attn.norm_q is not None:
            q = attn.norm_q(q)
        if attn.norm_k is not None:
            k = attn.norm_k(k)

        if text is not None:
            text_q = split_heads(attn.add_q_proj(text), attn.heads)
            text_k = split_heads(attn.add_k_proj(text), attn.heads)
            text_v = split_heads(attn.add_v_proj(text), attn.heads)
            if attn.norm_added_q is not None:
                text_q = attn.norm_added_q(text_q)
            if attn.norm_added_k is not None:
                text_k = attn.norm_added_k(text_k)
            q = torch.cat([q, text_q], dim=2)
            k = torch.cat([k, text_k], dim=2)
            v = torch.cat([v, text_v], dim=2)
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)


class FusedJointProcessor(JointProcessor):
    """Reproduces `FusedJointAttnProcessor2_0`, which skips query and key norms even if the model has them."""

    def project(self, attn: Attention, image: Tensor, text: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Project to `q, k, v [B, N + L, H, D]`, with one projection for each stream."""
        q, k, v = attn.to_qkv(image).chunk(3, dim=-1)
        text_q, text_k, text_v = attn.to_added_qkv(text).chunk(3, dim=-1)
        q = torch.cat([q, text_q], dim=1).unflatten(-1, (attn.heads, -1))
        k = torch.cat([k, text_k], dim=1).unflatten(-1, (attn.heads, -1))
        v = torch.cat([v, text_v], dim=1).unflatten(-1, (attn.heads, -1))
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
        return [
            SD3Site(
                name=name,
                index=index,
                heads=attn.heads,
                head_dim=attn.inner_dim // attn.heads,
                kind=kind,
                component=component,
                fused=_is_fused(attn.processor),
            )
            for index, (name, attn, kind) in enumerate(found)
        ]

    def processor(self, site: Site, run: RunContext) -> FamilyProcessor:
        """Return the processor of a site.

        Raises `UnsupportedError` for image-only attention of a fused model, which fails in diffusers too.
        """
        if not (isinstance(site, SD3Site) and site.fused):
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
        return Layout(
            grid=(1, h, w),
            text=slice(h * w, h * w + call["encoder_hidden_states"].shape[1]),
            vision=slice(0, h * w),
        )

    def text_tokens(self, pipe: Any) -> int:
        """Count CLIP's tokens and those of T5."""
        return pipe.tokenizer_max_length + super().text_tokens(pipe)


def _is_fused(processor: Any) -> bool:
    return (
        isinstance(processor, FusedJointProcessor) or type(processor).__name__ == "FusedJointAttnProcessor2_0"
    )


FAMILY = SD3Family()
