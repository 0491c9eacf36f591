"""A-STAR written out: the loop of denoising with the step in its middle, and what its tests share."""

import copy
import math

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import AttnProcessor2_0

from .test_structured import embedded, span

PROMPT = "a red cat and a blue dog"
END = 1 + len(PROMPT.replace(" ", ""))  # place of the end token
TWO = ["cat", "blue dog"]
IN_ALL_STEPS = dict(retention=1.0, stop=1.0)  # both losses in all steps
LEFT = {"cat": [0.0, 0.0, 0.5, 1.0]}


class Noting(AttnProcessor2_0):
    """The stock processor, which also keeps the scores of cross-attention, `[H, N, L]`."""

    def __init__(self, kept):
        super().__init__()
        self.kept = kept

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, **kwargs):
        q = attn.head_to_batch_dim(attn.to_q(hidden_states))
        k = attn.head_to_batch_dim(attn.to_k(encoder_hidden_states))
        self.kept.append(attn.get_attention_scores(q, k))
        return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, **kwargs)


def maps_by_hand(kept, side, concepts):
    """For each concept a map `[h, w]`: mean over layers and heads, softmax over words, mean, smoothing."""
    mean = torch.cat(kept).mean(0)[:, 1:END]  # layers and heads have the same size
    words = torch.exp(100 * mean) / torch.exp(100 * mean).sum(-1, keepdim=True)
    near = math.exp(-2)
    line = torch.tensor([near, 1, near], dtype=torch.float64) / (1 + 2 * near)
    out = []
    for concept in concepts:
        where = span(PROMPT, concept)
        plane = words[:, where.start - 1 : where.stop - 1].mean(-1).view(1, 1, side, side)
        plane = F.pad(plane, (1, 1, 1, 1), mode="reflect")[0, 0]
        moved = (line[i] * line[j] * plane[i : i + side, j : j + side] for i in range(3) for j in range(3))
        out.append(sum(moved))
    return out


def ov(a, b):
    # At the peak a scaled map and its mask are both one; half of the slope is that of the map.
    tied = torch.where(a == b, (a + b) / 2, a)
    return torch.where(a <= b, tied, b).sum() / (a.sum() + b.sum())


def found(adjectives=True):
    """The concepts of the prompt, as its reader sees them."""
    return ["red cat", "blue dog"] if adjectives else ["cat", "dog"]


def loop(pipe, start, *, steps, settings, cfg=0.0):
    """The pipeline's call with A-STAR in the middle of its loop; returns the latents."""
    side, layers = (8, MID) if settings.get("halvings") else (16, FINE)
    facts = dict(concepts=TWO, segregation=1.0, retention=1.0, step_size=20.0, threshold=0.5)
    facts |= dict(loss="astar", masks={}, start=0.0, stop=1.0) | settings
    scheduler = copy.deepcopy(pipe.scheduler)
    scheduler.set_timesteps(steps)
    with torch.no_grad():
        text = torch.stack([embedded(pipe, ""), embedded(pipe, PROMPT)])
    z, before = start * scheduler.init_noise_sigma, None
    for i, t in enumerate(scheduler.timesteps):
        if int(facts["start"] * steps) <= i < int(facts["stop"] * steps):
            kept, leaf = [], z.clone().requires_grad_()
            stock = pipe.unet.attn_processors
            chosen = {f"{name}.processor": Noting(kept) for name in layers}
            pipe.unet.set_attn_processor(stock | chosen)
            pipe.unet(scheduler.scale_model_input(leaf, t), t, text[1:])
            pipe.unet.set_attn_processor(stock)
            maps = maps_by_hand(kept, side, facts["concepts"])
            if facts["loss"] == "attend_and_excite":
                loss = max(1 - m.max() for m in maps)
            else:
                pairs = [(m, n) for place, m in enumerate(maps) for n in maps[:place]]
                loss = facts["segregation"] * sum(ov(*pair) for pair in pairs)
                wanted = {} if before is None else dict(enumerate(before))
                if facts["masks"]:
                    left = torch.zeros(side, side)
                    left[:, : side // 2] = 1
                    wanted[0] = left
                for place, mask in wanted.items():
                    scaled = maps[place] / maps[place].max().detach()
                    loss = loss + facts["retention"] * (1 - ov(scaled, mask))
            before = [(m >= facts["threshold"] * m.max()).double().detach() for m in maps]
            if isinstance(loss, torch.Tensor):
                alpha = facts["step_size"] * math.sqrt(torch.linspace(1, 0.5, steps)[i])
                z = (z - alpha * torch.autograd.grad(loss, leaf)[0]).detach()
        with torch.no_grad():
            scaled = scheduler.scale_model_input(torch.cat([z, z]) if cfg else z, t)
            out = pipe.unet(scaled, t, text if cfg else text[1:])[0]
            out = out[:1] + cfg * (out[1:] - out[:1]) if cfg else out
            z = scheduler.step(out, t, z)[0]
    return z


MID = ["mid_block.attentions.0.transformer_blocks.0.attn2"]
FINE = [
    f"{part}.attentions.{i}.transformer_blocks.0.attn2"
    for part, i in (("down_blocks.0", 0), ("up_blocks.1", 0), ("up_blocks.1", 1))
]


def start(rows=1):
    return torch.randn(rows, 4, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def run(tiny, pipe, *, cfg=0.0, steps=3, prompt=PROMPT, **call):
    prompt = [prompt] if isinstance(prompt, str) else prompt
    call = (
        dict(latents=start(len(prompt)).to(pipe.unet.dtype), generator=None, guidance_scale=cfg or 1.0) | call
    )
    return tiny.run(pipe, prompt=prompt, steps=steps, **call)


def nearly(ours, wanted, plain):
    """What a method changed is right, to a thousandth of the change: time is embedded in fp32."""
    change = (plain - wanted).abs().max()
    assert change > 1e-3 and (ours - wanted).abs().max() < 1e-3 * change
