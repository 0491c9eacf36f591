"""FLUX.1: text and image tokens in one joint sequence, text first, in double and in single blocks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from diffusers.models.embeddings import apply_rotary_emb
from torch import Tensor, nn

from ..core import Layout, Rotary, RunContext, Site
from ..errors import MethodError, UnsupportedError
from . import latents, texts
from .base import DispatchProcessor, Family, double_then_single

if TYPE_CHECKING:
    from diffusers.models.transformers.transformer_flux import FluxAttention


class FluxProcessor(DispatchProcessor):
    """Reproduces `FluxAttnProcessor` of diffusers in both kinds of block."""

    def __call__(
        self,
        attn: FluxAttention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Compute joint attention.

        A double block has `hidden_states [B, N, C]` and `encoder_hidden_states [B, L, C]`, returned in that
        order. A single block has `hidden_states [B, L + N, C]` with the text in front already.
        `image_rotary_emb` is cosine and sine, each `[L + N, D]`.
        """
        q, k, v = _project(attn, hidden_states)
        q, k = attn.norm_q(q), attn.norm_k(k)

        if encoder_hidden_states is not None:
            text_q, text_k, text_v = _project_text(attn, encoder_hidden_states)
            q = torch.cat([attn.norm_added_q(text_q), q], dim=1)
            k = torch.cat([attn.norm_added_k(text_k), k], dim=1)
            v = torch.cat([text_v, v], dim=1)

        if image_rotary_emb is not None:
            q = apply_rotary_emb(q, image_rotary_emb, sequence_dim=1)
            k = apply_rotary_emb(k, image_rotary_emb, sequence_dim=1)

        out = self.attend(q, k, v, attention_mask, self.run.layout)
        out = out.flatten(2, 3).to(q.dtype)
        if encoder_hidden_states is None:
            return out  # a single block projects attention and MLP together, outside

        length = encoder_hidden_states.shape[1]
        text, image = out.split_with_sizes([length, out.shape[1] - length], dim=1)
        image = attn.to_out[1](attn.to_out[0](image.contiguous()))
        return image, attn.to_add_out(text.contiguous())


class FluxFamily(Family):
    """The family of `FluxTransformer2DModel`, with and without guidance embedding."""

    name: ClassVar[str] = "flux"
    denoisers: ClassVar[tuple[str, ...]] = ("FluxTransformer2DModel",)
    # FluxIPAdapterAttnProcessor holds weights of its own and is not replaced
    stock: ClassVar[frozenset[str]] = frozenset({"FluxAttnProcessor"})
    cfg: ClassVar[Literal["batch", "two_calls"]] = "two_calls"
    unbatched: ClassVar[frozenset[str]] = frozenset({"img_ids", "txt_ids"})
    rotary: ClassVar[str] = "pos_embed"
    token_axes: ClassVar[dict[str, int]] = {"hidden_states": 1, "img_ids": -2}
    # all arguments except residuals of ControlNets; "scale" is that of LoRA, in joint_attention_kwargs
    order_free: ClassVar[frozenset[str]] = frozenset(
        {
            "encoder_hidden_states",
            "txt_ids",
            "pooled_projections",
            "timestep",
            "guidance",
            "scale",
            "controlnet_blocks_repeat",
            "return_dict",
        }
    )

    def sites(self, model: nn.Module, component: str) -> list[Site]:
        """Return double blocks, then single blocks: the order in which they run."""
        rotary = Rotary(tuple(model.config.axes_dims_rope), float(model.pos_embed.theta))
        return double_then_single(model, component, rotary)

    def processor(self, site: Site, run: RunContext) -> FluxProcessor:
        return FluxProcessor(site, run)

    def layout(self, model: nn.Module, call: Mapping[str, Any]) -> Layout:
        """Return text, then the image; `raster` is false if position ids are not one grid (Kontext).

        Raises `UnsupportedError` for ids of another size, on which diffusers fails too, deep in a block.
        """
        length = call["encoder_hidden_states"].shape[1]
        tokens, ids = call["hidden_states"].shape[1], call["img_ids"]
        if ids.shape[-2] != tokens:
            raise UnsupportedError(
                f"FLUX needs one row of img_ids for each image token, got {ids.shape[-2]} ids for {tokens} "
                "tokens of hidden_states; make the ids for the latents that go with them."
            )
        raster = _raster(ids)
        return Layout(
            grid=(1, *(raster or (1, tokens))),
            text=slice(0, length),
            vision=slice(length, length + tokens),
            raster=raster is not None,
        )

    def layout_values(self, call: Mapping[str, Any]) -> Tensor:
        """Return the position ids, which a pipeline makes once a run."""
        return call["img_ids"]

    def text_parts(self, pipe: Any, prompt: str, call: Mapping[str, Any]) -> tuple[texts.TextPart, ...]:
        """Return the tokens of T5; CLIP gives one vector, which is in no sequence."""
        found = texts.part(pipe, prompt, "tokenizer_2", limit=texts.limit(pipe, call))
        return (found,) if found else ()

    def one_text(self, model: nn.Module) -> None:
        """Return `None`: all but attention is token-wise."""

    def with_second_text(self, call: Mapping[str, Any], text: Tensor) -> dict[str, Any]:
        """Return a call with `text [1, L, C]` ahead of each prompt, at the positions of the prompt."""
        prompts, ids = call["encoder_hidden_states"], call["txt_ids"]
        return {
            **call,
            "encoder_hidden_states": texts.joined(prompts, text, ahead=True),
            "txt_ids": torch.cat([ids, ids], dim=-2),
        }

    def timestep(self, call: Mapping[str, Any]) -> Tensor:
        """Return `[B]`; it undoes the division by 1000 that every Flux pipeline does."""
        return call["timestep"].float() * 1000

    def noise_shape(self, pipe: Any, call: Mapping[str, Any]) -> tuple[int, ...]:
        """Return `[B, N, C]`: each token packs 2 x 2 latents."""
        h, w = _tokens(pipe, call)
        return latents.rows(call), h * w, 4 * latents.channels(pipe)

    def drawn_shape(self, pipe: Any, call: Mapping[str, Any]) -> tuple[int, ...]:
        """Return `[B, C, H, W]`, before 2 x 2 latents become a token."""
        h, w = _tokens(pipe, call)
        return latents.rows(call), latents.channels(pipe), 2 * h, 2 * w

    def as_latents(self, drawn: Tensor) -> Tensor:
        """Pack `drawn [B, C, H, W]` to `[B, N, 4 C]`."""
        x = drawn.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).permute(0, 2, 4, 1, 3, 5)
        return x.flatten(3).flatten(1, 2)

    def to_autoencoder(self, pipe: Any, x: Tensor, call: Mapping[str, Any]) -> Tensor:
        """Unpack `x [B, N, C]`; raises `MethodError` for latents of another size than that of the call."""
        h, w = _tokens(pipe, call)
        if x.shape[1] != h * w:
            raise MethodError(
                f"Packed latents become a picture of the height and width of the call, {h} x {w} tokens, got "
                f"{x.shape[1]} tokens; give the height and width that they were made for."
            )
        x = x.unflatten(1, (h, w)).unflatten(3, (-1, 2, 2))
        x = x.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
        return super().to_autoencoder(pipe, x, call)


def _project(attn: FluxAttention, x: Tensor) -> list[Tensor]:
    """Project the main stream to queries, keys and values `[B, N, H, D]`."""
    qkv = (
        attn.to_qkv(x).chunk(3, dim=-1)
        if attn.fused_projections
        else (attn.to_q(x), attn.to_k(x), attn.to_v(x))
    )
    return [y.unflatten(-1, (-1, attn.head_dim)) for y in qkv]


def _project_text(attn: FluxAttention, x: Tensor) -> list[Tensor]:
    """Project the text stream of a double block to queries, keys and values `[B, L, H, D]`."""
    if attn.fused_projections:
        qkv = attn.to_added_qkv(x).chunk(3, dim=-1)
    else:
        qkv = attn.add_q_proj(x), attn.add_k_proj(x), attn.add_v_proj(x)
    return [y.unflatten(-1, (-1, attn.head_dim)) for y in qkv]


def _tokens(pipe: Any, call: Mapping[str, Any]) -> tuple[int, int]:
    """Return rows and columns of tokens in the picture that `pipe(**call)` makes."""
    size, edge = latents.size(pipe, call), 2 * latents.spatial(pipe)
    return size["height"] // edge, size["width"] // edge


def _raster(ids: Tensor) -> tuple[int, int] | None:
    """Return height and width of the grid that `ids [N, 3]` (or `[1, N, 3]`) lists row by row, or `None`.

    The origin may be anywhere.

    The width is the length of the first row, not the largest id. Pipelines store ids in the model's dtype,
    and bfloat16 merges neighbours above 256.
    """
    ids = (ids[0] if ids.ndim == 3 else ids).cpu()  # one transfer instead of one synchronisation per number
    width = int((ids[:, 1] == ids[0, 1]).sum())
    height = ids.shape[0] // width
    rows, columns = torch.arange(height).repeat_interleave(width), torch.arange(width).repeat(height)
    if rows.shape[0] != ids.shape[0]:
        return None
    raster = torch.stack([torch.zeros_like(rows), rows, columns], dim=1).float() + ids[0].float()
    return (height, width) if torch.equal(raster.to(ids.dtype), ids) else None


FAMILY = FluxFamily()
