"""HunyuanVideo: video and text tokens in one joint sequence, video first, in double and in single blocks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from diffusers.models.embeddings import apply_rotary_emb
from torch import Tensor, nn

from ..core import Layout, Rotary, RunContext, Site
from . import latents, texts
from .base import DispatchProcessor, Family, double_then_single, normed, vision_first

if TYPE_CHECKING:
    from diffusers.models.attention_processor import Attention


class HunyuanVideoProcessor(DispatchProcessor):
    """Reproduces `HunyuanVideoAttnProcessor2_0` of diffusers in both kinds of block."""

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Compute joint attention.

        Shapes: `hidden_states [B, N, C]` and `encoder_hidden_states [B, L, C]`, returned in that order.
        `attention_mask [B, 1, 1, N + L]` is false for the padding of prompts. `image_rotary_emb` is cosine
        and sine of the video tokens, each `[N, D]`. A double block has projections for the text. A single
        block projects video and text with the same weights, and projects the output outside.
        """
        tokens, length = hidden_states.shape[1], encoder_hidden_states.shape[1]
        shared = attn.add_q_proj is None
        x = torch.cat([hidden_states, encoder_hidden_states], dim=1) if shared else hidden_states
        q, k, v = (y.unflatten(2, (attn.heads, -1)) for y in (attn.to_q(x), attn.to_k(x), attn.to_v(x)))
        q, k = normed(attn.norm_q, q), normed(attn.norm_k, k)
        if image_rotary_emb is not None:
            q, k = _rotate(q, image_rotary_emb, tokens), _rotate(k, image_rotary_emb, tokens)

        if not shared:
            text = (p(encoder_hidden_states) for p in (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj))
            text_q, text_k, text_v = (y.unflatten(2, (attn.heads, -1)) for y in text)
            q = torch.cat([q, normed(attn.norm_added_q, text_q)], dim=1)
            k = torch.cat([k, normed(attn.norm_added_k, text_k)], dim=1)
            v = torch.cat([v, text_v], dim=1)

        out = self.attend(q, k, v, attention_mask, self.run.layout)
        video, text = out.flatten(2, 3).to(q.dtype).split_with_sizes([tokens, length], dim=1)
        if shared:
            return video, text
        return attn.to_out[1](attn.to_out[0](video)), attn.to_add_out(text)


class HunyuanVideoFamily(Family):
    """The family of `HunyuanVideoTransformer3DModel`: text to video, and image to video in its two forms.

    A given first frame comes as channels (`latent_concat`) or as tokens of the grid (`token_replace`), so the
    grid is the same. Tokens of a vision language model are in front of the text.
    """

    name: ClassVar[str] = "hunyuan_video"
    denoisers: ClassVar[tuple[str, ...]] = ("HunyuanVideoTransformer3DModel",)
    stock: ClassVar[frozenset[str]] = frozenset({"HunyuanVideoAttnProcessor2_0"})
    cfg: ClassVar[Literal["batch", "two_calls"]] = "two_calls"

    def sites(self, model: nn.Module, component: str) -> list[Site]:
        """Return double blocks, then single blocks, as they run.

        The token refiner sees only text and is left out.
        """
        return double_then_single(model, component, Rotary())

    def processor(self, site: Site, run: RunContext) -> HunyuanVideoProcessor:
        return HunyuanVideoProcessor(site, run)

    def text_parts(self, pipe: Any, prompt: str, call: Mapping[str, Any]) -> tuple[texts.TextPart, ...]:
        """Return the tokens of the language model, of the prompt inside its template, which is cropped.

        There are none where tokens of an image stand among those of the text, which only image to video has.
        """
        usual = latents.defaults(pipe)
        template = call.get("prompt_template") or usual.get("prompt_template")
        if not isinstance(template, Mapping) or "image_embed_interleave" in usual:
            return ()
        before, _, after = template["template"].partition("{}")
        if (cropped := template.get("crop_start")) is None:
            cropped = len(pipe.tokenizer(template["template"]).input_ids) - 2  # as in diffusers
        limit = texts.limit(pipe, call) + cropped
        return (texts.TextPart((pipe.tokenizer,), prompt, 0, limit, before, after, cropped),)

    def noise_dtype(self, pipe: Any) -> torch.dtype:
        """Return float32: the pipeline draws in it, whatever the dtype of its denoiser is."""
        return torch.float32

    def layout(self, model: nn.Module, call: Mapping[str, Any]) -> Layout:
        """Return the grid of `hidden_states [B, C, T, H, W]` in patches, then the padded text."""
        frames, height, width = call["hidden_states"].shape[2:]
        patch, patch_t = model.config.patch_size, model.config.patch_size_t
        grid = frames // patch_t, height // patch, width // patch
        return vision_first(grid, call, masked_text=True)

    def to_autoencoder(self, pipe: Any, x: Tensor, call: Mapping[str, Any]) -> Tensor:
        return x.to(pipe.vae.dtype) / pipe.vae.config.scaling_factor


def _rotate(x: Tensor, rotary: tuple[Tensor, Tensor], tokens: int) -> Tensor:
    """Rotate the first `tokens` rows of `x [B, S, H, D]`; text has no place on the grid."""
    if x.shape[1] == tokens:
        return apply_rotary_emb(x, rotary, sequence_dim=1)
    return torch.cat([apply_rotary_emb(x[:, :tokens], rotary, sequence_dim=1), x[:, tokens:]], dim=1)


FAMILY = HunyuanVideoFamily()
