"""NAG written out without the package: two attentions by explicit maps, in a denoiser that runs both texts.

In cross-attention the negative text is one more context. In joint attention the model runs on a batch with
the negative text in the second half, and the grid tokens of both halves are replaced by the guided ones.
"""

import torch
from diffusers.models.embeddings import apply_rotary_emb


def guided(positive, negative, scale=5.0, tau=2.5, alpha=0.25):
    """Algorithm 1 of the paper on `[B, N, C]`, where `scale` is 1 + phi."""
    away = positive + (scale - 1) * (positive - negative)
    ratio = away.norm(p=1, dim=-1, keepdim=True) / positive.norm(p=1, dim=-1, keepdim=True)
    away = torch.where(ratio > tau, away * tau / ratio, away)
    return alpha * away + (1 - alpha) * positive


def attention(q, k, v):
    """From `q, k, v [B, N, H, D]` to `[B, N, H D]`, with the map in memory."""
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / q.shape[-1] ** 0.5
    return torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v).flatten(2)


def heads(x, attn):
    return x.unflatten(-1, (attn.heads, -1))


def same(x):
    return x


class Cross:
    """Cross-attention to the prompt and to `negative [1, L, C]`."""

    def __init__(self, negative, settings):
        self.negative, self.settings = negative, settings

    def __call__(self, attn, hidden_states, encoder_hidden_states, *_, **__):
        q = heads((attn.norm_q or same)(attn.to_q(hidden_states)), attn)

        def attend(context):
            k, v = (attn.norm_k or same)(attn.to_k(context)), attn.to_v(context)
            return attention(q, heads(k, attn), heads(v, attn))

        negative = self.negative.expand(len(q), -1, -1)
        out = attend(encoder_hidden_states)
        if self.settings is not None:
            out = guided(out, attend(negative), **self.settings)
        return attn.to_out[0](out)


class Joint:
    """Joint attention of a batch whose second half has the negative text; `text_first` as in FLUX.1."""

    def __init__(self, length, settings, text_first):
        self.length, self.settings, self.text_first = length, settings, text_first

    def __call__(
        self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, image_rotary_emb=None
    ):
        if self.text_first and encoder_hidden_states is None:
            streams = [(hidden_states, attn.to_q, attn.to_k, attn.to_v, attn.norm_q, attn.norm_k)]
        else:
            image = hidden_states, attn.to_q, attn.to_k, attn.to_v, attn.norm_q, attn.norm_k
            added = attn.add_q_proj, attn.add_k_proj, attn.add_v_proj
            text = encoder_hidden_states, *added, attn.norm_added_q, attn.norm_added_k
            streams = [text, image] if self.text_first else [image, text]
        parts = [
            ((norm_q or same)(heads(q(x), attn)), (norm_k or same)(heads(k(x), attn)), heads(v(x), attn))
            for x, q, k, v, norm_q, norm_k in streams
        ]
        q, k, v = (torch.cat(x, dim=1) for x in zip(*parts, strict=True))
        if image_rotary_emb is not None:
            q, k = (apply_rotary_emb(x, image_rotary_emb, sequence_dim=1) for x in (q, k))
        out, length = attention(q, k, v), self.length
        text, grid = (
            (out[:, :length], out[:, length:]) if self.text_first else (out[:, -length:], out[:, :-length])
        )
        positive, negative = grid.chunk(2)
        if self.settings is not None:
            positive = guided(positive, negative, **self.settings)
        grid = torch.cat([positive, positive])  # one stream for both texts
        if len(streams) == 1:
            return torch.cat([text, grid], dim=1)
        grid = attn.to_out[0](grid)
        return grid, text if getattr(attn, "context_pre_only", False) else attn.to_add_out(text)


def predict(model, call, negative, settings, layers=None):
    """The prediction of a denoiser for a call with one row for each picture; its processors are replaced."""
    text = call["encoder_hidden_states"]
    sites = {n: m for n, m in model.named_modules() if hasattr(m, "processor")}
    kind = type(model).__name__
    if kind in ("UNet2DConditionModel", "WanTransformer3DModel"):
        context = negative if kind.startswith("UNet") else model.condition_embedder.text_embedder(negative)
        for name, attn in sites.items():
            if name.endswith("attn2"):
                attn.processor = Cross(context, settings if layers is None or name in layers else None)
        return model(**call)[0]
    for name, attn in sites.items():
        if not name.endswith("attn2"):
            own = settings if layers is None or name in layers else None
            attn.processor = Joint(text.shape[1], own, text_first=kind.startswith("Flux"))
    shared = {"img_ids", "txt_ids"}
    twice = {
        n: torch.cat([x, x]) if isinstance(x, torch.Tensor) and n not in shared else x
        for n, x in call.items()
    }
    twice["encoder_hidden_states"] = torch.cat([text, negative.expand_as(text)])
    return model(**twice)[0].chunk(2)[0]
