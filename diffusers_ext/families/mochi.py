"""Mochi: video and text tokens in one joint sequence, video first, the padding of prompts left out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core import Layout, Rotary, RunContext, Site
from . import latents, texts
from .base import Family, SDPAProcessor, numbered, vision_first

if TYPE_CHECKING:
    from diffusers.models.attention_processor import MochiAttention


class MochiProcessor(SDPAProcessor):
    """Reproduces `MochiAttnProcessor2_0` of `diffusers.models.attention_processor`.

    diffusers attends row by row of the batch. Each row has as many text tokens as its prompt, and the rest of
    the result is 0. Cores get all rows at once, with the text of each prompt in front of its padding and a
    mask that hides the padding.
    """

    def __call__(
        self,
        attn: MochiAttention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Compute joint attention.

        Shapes: `hidden_states [B, N, C]` and `encoder_hidden_states [B, L, C]`, returned in that order.
        `attention_mask [B, L]` is false or 0 for padding. `image_rotary_emb` is cosine and sine of the video
        tokens, each `[N, H, D / 2]`.
        """
        tokens, length = hidden_states.shape[1], encoder_hidden_states.shape[1]
        q, k, v = _project(attn, hidden_states, attn.to_q, attn.to_k, attn.to_v)
        q, k = attn.norm_q(q), attn.norm_k(k)
        if image_rotary_emb is not None:
            q, k = _rotate(q, *image_rotary_emb), _rotate(k, *image_rotary_emb)
        text_q, text_k, text_v = _project(
            attn, encoder_hidden_states, attn.add_q_proj, attn.add_k_proj, attn.add_v_proj
        )
        text_q, text_k = attn.norm_added_q(text_q), attn.norm_added_k(text_k)

        # Prompts are usually padded on the right, but diffusers takes any mask and packs.
        padding = attention_mask == 0
        order = padding.byte().argsort(dim=1, stable=True)
        padding, order = padding.take_along_dim(order, 1), order[:, :, None, None]
        q = torch.cat([q, text_q.take_along_dim(order, 1)], dim=1)
        k = torch.cat([k, text_k.take_along_dim(order, 1)], dim=1)
        v = torch.cat([v, text_v.take_along_dim(order, 1)], dim=1)
        mask = F.pad(~padding, (tokens, 0), value=True)[:, None, None]

        out = self.attend(q, k, v, mask, self.run.layout).flatten(2)
        # This masks all of `out`, not the text alone: linear layers round copied rows differently from views.
        out = out.masked_fill(~mask[:, 0, 0, :, None], 0)
        video, text = out.split_with_sizes([tokens, length], dim=1)
        video = attn.to_out[1](attn.to_out[0](video))
        return video, text if attn.context_pre_only else attn.to_add_out(text)

    def dense(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, layout: Layout | None) -> Tensor:
        """Attend over `q, k, v [B, N + L, H, D]`, with each row of the batch cut at the end of its prompt.

        If queries and keys differ in length (a core may ask for the text alone), rows are masked instead.
        """
        if mask is None or q.shape[1] != k.shape[1]:
            return super().dense(q, k, v, mask, layout)
        return self._row_by_row(q, k, v, mask)

    @torch.compiler.disable  # ends of prompts depend on data: one graph break here instead of one a frame
    def _row_by_row(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        rows = []
        for row, end in enumerate(mask.flatten(1).sum(1).tolist()):
            out = super().dense(*(x[row : row + 1, :end] for x in (q, k, v)), None, None)
            rows.append(F.pad(out, (0, 0, 0, 0, 0, q.shape[1] - end)))
        return torch.cat(rows)


class MochiFamily(Family):
    """The family of `MochiTransformer3DModel`."""

    name: ClassVar[str] = "mochi"
    denoisers: ClassVar[tuple[str, ...]] = ("MochiTransformer3DModel",)
    stock: ClassVar[frozenset[str]] = frozenset({"MochiAttnProcessor2_0"})
    cfg: ClassVar[Literal["batch", "two_calls"]] = "batch"

    def sites(self, model: nn.Module, component: str) -> list[Site]:
        """Return the joint attention of each block."""
        blocks = enumerate(model.transformer_blocks)
        found = ((f"transformer_blocks.{i}.attn1", b.attn1, "joint") for i, b in blocks)
        return numbered(found, component, Rotary())

    def processor(self, site: Site, run: RunContext) -> MochiProcessor:
        return MochiProcessor(site, run)

    def text_parts(self, pipe: Any, prompt: str, call: Mapping[str, Any]) -> tuple[texts.TextPart, ...]:
        """Return the tokens of T5, which are in front of their padding."""
        found = texts.part(pipe, prompt, "tokenizer", limit=texts.limit(pipe, call))
        return (found,) if found else ()

    def noise_dtype(self, pipe: Any) -> torch.dtype:
        """Return float32: the pipeline draws in it, whatever the dtype of its denoiser is."""
        return torch.float32

    def layout(self, model: nn.Module, call: Mapping[str, Any]) -> Layout:
        """Return the grid of `hidden_states [B, C, T, H, W]` in patches, then the padded text."""
        frames, height, width = call["hidden_states"].shape[2:]
        grid = frames, height // model.config.patch_size, width // model.config.patch_size
        return vision_first(grid, call, masked_text=True)

    def to_autoencoder(self, pipe: Any, x: Tensor, call: Mapping[str, Any]) -> Tensor:
        return latents.restored(pipe.vae, x)


def _project(attn: MochiAttention, x: Tensor, *projections: nn.Module) -> list[Tensor]:
    """Apply each projection to `x [B, N, C]`: `[B, N, H, D]`."""
    return [project(x).unflatten(2, (attn.heads, -1)) for project in projections]


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate neighbouring channel pairs of `x [B, N, H, D]`, with angles for each head."""
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack(
        [(even * cos - odd * sin).to(x.dtype), (even * sin + odd * cos).to(x.dtype)], dim=-1
    ).flatten(-2)


FAMILY = MochiFamily()
