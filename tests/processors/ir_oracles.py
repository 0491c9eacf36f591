"""IR-Diffusion as its paper writes it: subjects are cut, resized and pasted, and all pairs have a mask."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import AttnProcessor2_0
from torch import Tensor

PLAIN = dict(
    isolation=True, reposition="warp", layers=(), ref_bias=0.0, cross_lambda=0.0, looks=None, steps=None
)


def sized(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """A mask of a grid that divides `size`, or that `size` divides with all of a place in or out."""
    h, w = size
    if mask.shape[0] <= h:
        return mask.repeat_interleave(h // mask.shape[0], 0).repeat_interleave(w // mask.shape[1], 1)
    return mask[:: mask.shape[0] // h, :: mask.shape[1] // w]


def bounds(mask: Tensor) -> tuple[slice, slice]:
    rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
    return slice(int(rows.min()), int(rows.max()) + 1), slice(int(columns.min()), int(columns.max()) + 1)


def pasted(image: Tensor, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The subject of `image [L, C]` in the box of `target`, and its mask there."""
    h, w = source.shape
    grid = torch.cat([image, source.flatten()[:, None].to(image)], 1).view(h, w, -1)
    cut = grid[bounds(source)].permute(2, 0, 1)[None]
    to = bounds(target)
    resized = F.interpolate(cut, (to[0].stop - to[0].start, to[1].stop - to[1].start), mode="nearest")
    canvas = torch.zeros_like(grid)
    canvas[to] = resized[0].permute(1, 2, 0)
    return canvas[..., :-1].reshape(h * w, -1), canvas[..., -1].flatten() > 0


def blocked(scene: Sequence[Tensor]) -> Tensor:
    """Pairs `[L, L]` of scene tokens of two subjects."""
    found = torch.zeros(scene[0].numel(), scene[0].numel(), dtype=torch.bool)
    for i, first in enumerate(scene):
        for j, second in enumerate(scene):
            if i != j:
                found |= first.flatten()[:, None] & second.flatten()
    return found


class Paper(AttnProcessor2_0):
    """Stock attention of a U-Net; the row of the scene is computed as the paper writes it.

    `facts` are settings like those of `PLAIN`, with `reference` and `scene`, masks of the subjects. `mutual`
    says whether this layer sees references, `guided` whether unconditional rows come first.
    """

    def __init__(self, facts: Mapping[str, Any], mutual: bool, guided: bool) -> None:
        super().__init__()
        self.facts, self.mutual, self.guided = PLAIN | dict(facts), mutual, guided

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, **kwargs):
        out = super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask).clone()
        per = len(self.facts["reference"]) + 1
        side = math.isqrt(hidden_states.shape[1])
        reference, scene = (
            [sized(m, (side, side)) for m in self.facts[kind]] for kind in ("reference", "scene")
        )
        for first in range(0, len(out), per):
            rows = slice(first, first + per)
            if encoder_hidden_states is None:
                out[first + per - 1] = self.pictures(attn, hidden_states[rows], reference, scene)
            elif not self.guided or first:
                own, texts = hidden_states[first + per - 1], encoder_hidden_states[rows]
                out[first + per - 1] = self.texts(attn, own, texts, scene)
        return out

    def pictures(self, attn, images, reference, scene):
        *references, own = images
        allowed = torch.zeros(len(own), len(own)).masked_fill(
            blocked(scene) if self.facts["isolation"] else torch.tensor(False), -math.inf
        )
        context, bias = [], []
        for number, image in enumerate(references if self.mutual else ()):
            if not scene[number].any():
                continue
            there, source = image, reference[number].flatten()
            if self.facts["reposition"] != "none":
                there, source = pasted(image, reference[number], scene[number])
            looks = scene[number].flatten()
            looks = looks if self.facts["looks"] is None else looks & self.facts["looks"][len(own)]
            pairs = looks[:, None] & source
            bias.append(torch.full(pairs.shape, self.facts["ref_bias"]).masked_fill(~pairs, -math.inf))
            context.append(there)
        keys = torch.cat([*context, own])[None]
        return explicit(attn, own[None], keys, torch.cat([*bias, allowed], 1))[0]

    def texts(self, attn, own, texts, scene):
        *others, prompt = (explicit(attn, own[None], text[None])[0] for text in texts)
        out = prompt.clone()
        for mask, other in zip(scene, others, strict=True):
            tokens = mask.flatten()
            share = self.facts["cross_lambda"]
            out[tokens] = (1 - share) * prompt[tokens] + share * other[tokens]
        return out


def explicit(attn: Any, queries: Tensor, context: Tensor, bias: Tensor | None = None) -> Tensor:
    """Attention with all probabilities, `[1, N, C]`."""
    q, k, v = (
        to(x).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
        for to, x in ((attn.to_q, queries), (attn.to_k, context), (attn.to_v, context))
    )
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    probs = (scores if bias is None else scores + bias.to(scores)).softmax(-1)
    return attn.to_out[1](attn.to_out[0]((probs @ v).transpose(1, 2).flatten(2)))
