"""Stable Diffusion 1, 2 and XL: self- and cross-attention at several resolutions of a U-Net."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ..core import Layout, RunContext, Site
from . import latents, texts
from .base import (
    Family,
    FamilyProcessor,
    FusableSite,
    SDPAProcessor,
    Select,
    normed,
    numbered,
    split_heads,
)

if TYPE_CHECKING:
    from diffusers.models.attention_processor import Attention


class UNetProcessor(SDPAProcessor):
    """Reproduces `AttnProcessor2_0` of `diffusers.models.attention_processor`."""

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """Compute self-attention, or cross-attention if `encoder_hidden_states [B, L, C]` is given.

        Shapes: `hidden_states [B, N, C]` or `[B, C, h, w]`, returned alike; `attention_mask [B, 1, L]` is a
        bias; `temb [B, C, h, w]` conditions a spatial norm.
        """
        residual = hidden_states
        if attn.spatial_norm is not None:
            hidden_states = attn.spatial_norm(hidden_states, temb)
        shape = hidden_states.shape
        if len(shape) == 4:
            hidden_states = hidden_states.flatten(2).transpose(1, 2)

        if attention_mask is not None:
            batch, length, _ = (
                hidden_states if encoder_hidden_states is None else encoder_hidden_states
            ).shape
            attention_mask = attn.prepare_attention_mask(attention_mask, length, batch)
            attention_mask = attention_mask.view(batch, attn.heads, -1, attention_mask.shape[-1])

        if attn.group_norm is not None:
            hidden_states = attn.group_norm(hidden_states.transpose(1, 2)).transpose(1, 2)
        if encoder_hidden_states is not None and attn.norm_cross is not None:
            encoder_hidden_states = attn.norm_encoder_hidden_states(encoder_hidden_states)

        layout = self.run.layout
        if layout is not None and self.reads_layout:
            layout = at_level(layout, hidden_states.shape[1])
        if encoder_hidden_states is not None and self.reads_cross_text and self.run.cross_text is not None:
            out = self.other_text(attn, hidden_states, encoder_hidden_states, attention_mask, layout)
        else:
            q, k, v = self.heads(attn, *self.project(attn, hidden_states, encoder_hidden_states))
            out = self.attend(q, k, v, attention_mask, layout).to(q.dtype)
        out = out.flatten(2)
        out = attn.to_out[1](attn.to_out[0](out))

        if len(shape) == 4:
            out = out.transpose(-1, -2).reshape(shape)
        if attn.residual_connection:
            out = out + residual
        return out / attn.rescale_output_factor

    def heads(self, attn: Attention, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Split heads, `[B, N, C]` -> `[B, N, H, D]`, and norm queries and keys."""
        # diffusers norms [B, H, N, D]; transposes are views, so the attention call gets the same tensors.
        q, k, v = (split_heads(x, attn.heads) for x in (q, k, v))
        q, k = normed(attn.norm_q, q), normed(attn.norm_k, k)
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)

    def other_text(
        self, attn: Attention, image: Tensor, text: Tensor, mask: Tensor | None, layout: Layout | None
    ) -> Tensor:
        """Attend to the texts of `run.cross_text`; what stands behind them in `text [B, L, C]` is kept.

        Returns `[B, N, H, D]`.
        """
        other = self.run.cross_text
        keys = [_ahead(key, text) for key in other.keys] or [text]
        q, k, v = self.project(attn, image, keys[0], _ahead(other.values, text))
        out = None
        for place, key in enumerate(keys):
            heads = self.heads(attn, q, self.project_keys(attn, key) if place else k, v)
            each = self.attend(*heads, mask, layout).to(q.dtype)
            if other.weights is None:
                return each
            each = each * other.weights[place].to(each.dtype)[:, None, None, None]
            out = each if out is None else out + each
        return out

    def project(
        self, attn: Attention, image: Tensor, text: Tensor | None, values: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Project to `q [B, N, C]`, `k, v [B, L, C]`; without text the image is its own context.

        `values [B, L, C]` is a text of its own for the values.
        """
        context = image if text is None else text
        return attn.to_q(image), attn.to_k(context), attn.to_v(context if values is None else values)

    def project_keys(self, attn: Attention, text: Tensor) -> Tensor:
        """Project a text `[B, L, C]` to keys."""
        return attn.to_k(text)


class FusedUNetProcessor(UNetProcessor):
    """Reproduces `FusedAttnProcessor2_0`: one projection for q, k, v, or for k and v in cross-attention."""

    def project(
        self, attn: Attention, image: Tensor, text: Tensor | None, values: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        if text is None:
            return attn.to_qkv(image).chunk(3, dim=-1)
        k, v = attn.to_kv(text).chunk(2, dim=-1)
        return attn.to_q(image), k, v if values is None else attn.to_kv(values).chunk(2, dim=-1)[1]

    def project_keys(self, attn: Attention, text: Tensor) -> Tensor:
        return attn.to_kv(text).chunk(2, dim=-1)[0]


class UNetFamily(Family):
    """The family of `UNet2DConditionModel`: SD 1, SD 2, SDXL and others with the same transformer blocks."""

    name: ClassVar[str] = "unet"
    denoisers: ClassVar[tuple[str, ...]] = ("UNet2DConditionModel",)
    # AttnProcessor and SlicedAttnProcessor multiply matrices themselves, which gives other bits
    stock: ClassVar[frozenset[str]] = frozenset({"AttnProcessor2_0", "FusedAttnProcessor2_0"})
    cfg: ClassVar[Literal["batch", "two_calls"]] = "batch"
    unbatched: ClassVar[frozenset[str]] = frozenset({"ip_adapter_masks"})  # an entry for each adapter

    def sites(self, model: nn.Module, component: str) -> list[Site]:
        """Return `attn1` and `attn2` of every transformer block, in the order in which they run.

        The model registers its middle last, hence the explicit order. `attn1` is cross-attention in blocks
        with `only_cross_attention`. GLIGEN's `fuser.attn` mixes in object tokens and is not a site.
        """
        found = []
        for part in ("down_blocks", "mid_block", "up_blocks"):
            root = getattr(model, part, None)
            for name, module in root.named_modules(prefix=part) if root is not None else ():
                if name.rpartition(".")[2] in ("attn1", "attn2"):
                    found.append((name, module))
        kinds = ((name, attn, "cross" if attn.is_cross_attention else "self") for name, attn in found)
        levels = [halvings(name, len(model.down_blocks)) for name, _ in found]
        return [
            replace(site, level=level - min(levels), halvings=level)
            for site, level in zip(numbered(kinds, component), levels, strict=True)
        ]

    def hides_prompt(self, model: nn.Module) -> str | None:
        """Return why the text changes between encoder and attention: a projection, or a norm in attention."""
        normed_text = any(getattr(module, "norm_cross", None) is not None for module in model.modules())
        if model.encoder_hid_proj is None and not normed_text:
            return None
        return "with this configuration change the prompt between the text encoder and cross-attention"

    def processor(self, site: Site, run: RunContext) -> FamilyProcessor:
        fused = isinstance(site, FusableSite) and site.fused
        return (FusedUNetProcessor if fused else UNetProcessor)(site, run)

    def layout(self, model: nn.Module, call: Mapping[str, Any]) -> Layout:
        """Return the grid of the latents `sample [B, C, H, W]`; each site derives that of its level."""
        h, w = call["sample"].shape[-2:]
        context = call.get("encoder_hidden_states")
        words = None if context is None else slice(0, context.shape[1])
        return Layout(grid=(1, h, w), text=slice(0, 0), vision=slice(0, h * w), cross_text=words)

    def batch(self, call: Mapping[str, Any]) -> int:
        return call["sample"].shape[0]

    def text_tokens(self, pipe: Any) -> int:
        """Return 0: the text is in the keys of cross-attention."""
        return 0

    def text_parts(self, pipe: Any, prompt: str, call: Mapping[str, Any]) -> tuple[texts.TextPart, ...]:
        """Return the tokens of CLIP; the two encoders of SDXL have the same, side by side in the channels."""
        found = texts.part(pipe, prompt, "tokenizer", "tokenizer_2")
        return () if found is None or self.hides_prompt(pipe.unet) else (found,)

    def one_text(self, model: nn.Module) -> str | None:
        """Return `None`, unless the model pools its text, or norms its tokens together."""
        config, kind = model.config, type(model).__name__
        pooled = config.addition_embed_type not in (None, "text_time")
        if pooled or config.encoder_hid_dim_type not in (None, "text_proj"):
            return f"this {kind} makes more of its text than tokens"
        if config.cross_attention_norm == "group_norm":
            return f"this {kind} norms the tokens of a text together"
        return None

    def with_second_text(self, call: Mapping[str, Any], text: Tensor) -> dict[str, Any]:
        """Return a call with `text [1, L, C]` behind each prompt; a mask of prompts hides none of it."""
        call, mask = super().with_second_text(call, text), call.get("encoder_attention_mask")
        if mask is None:
            return call
        shown = mask.new_ones((len(mask), text.shape[1]))
        return {**call, "encoder_attention_mask": torch.cat([mask, shown], dim=1)}

    def levels(self, model: nn.Module, component: str, select: Select | None = None) -> tuple[int, ...]:
        """Return levels counted from the latents, so the finest attention may be at level 1 or 2."""
        sites = self.sites(model, component)
        picked = [s for s in sites if s.kind != "cross"] if select is None else select(sites)
        return tuple(sorted({halvings(site.name, len(model.down_blocks)) for site in picked}))

    def autoencoder(self, pipe: Any) -> nn.Module:
        """Return the autoencoder, or a copy in fp32 if it overflows in fp16 (SDXL).

        It is a copy because gradients need its weights after the call.
        """
        vae = latents.autoencoder(pipe)
        return copy.deepcopy(vae).float() if _overflows(pipe) else vae

    def to_autoencoder(self, pipe: Any, x: Tensor, call: Mapping[str, Any]) -> Tensor:
        x = x.float() if _overflows(pipe) else x
        return latents.restored(pipe.vae, x)


def _ahead(words: Tensor, text: Tensor) -> Tensor:
    """Put `words [B, L, C]` in place of the first L tokens of a text."""
    rest = text[:, words.shape[1] :]
    return torch.cat([words, rest], dim=1) if rest.shape[1] else words


def at_level(layout: Layout, tokens: int) -> Layout | None:
    """Return the layout of a site with `tokens` queries, from that of the latents.

    It is `None` if no level has as many tokens.

    Every level halves the grid and rounds up. `vision` spans the queries, and the keys too in self-attention.
    In cross-attention all keys are text, so there is no text to slice out of the queries and `text` is empty.
    """
    _, h, w = layout.grid
    while h * w > tokens:
        h, w = (h + 1) // 2, (w + 1) // 2
    if h * w != tokens:
        return None
    vision = slice(0, h * w)
    return Layout(grid=(1, h, w), text=slice(0, 0), vision=vision, cross_text=layout.cross_text)


def halvings(name: str, blocks: int) -> int:
    """Return how often the grid is halved at a module, in a U-Net of `blocks` blocks each way."""
    part, number, *_ = name.split(".")
    if part == "mid_block":
        return blocks - 1
    return int(number) if part == "down_blocks" else blocks - 1 - int(number)


def _overflows(pipe: Any) -> bool:
    """Return whether the pipeline decodes in fp32 with an autoencoder in fp16, as those of SDXL do."""
    vae = pipe.vae
    return hasattr(pipe, "upcast_vae") and vae.dtype == torch.float16 and bool(vae.config.force_upcast)


FAMILY = UNetFamily()
