"""What tests of IR-Diffusion share: stories of two subjects, their pictures, and one layer on its own."""

from dataclasses import replace

import pytest
import torch

from diffusers_ext.core import Layout, RunContext, Site

from ..hosts import processors
from . import ir_oracles

PROMPTS = ["a red circle", "a blue star", "a red circle and a blue star"]
ONE = [[0.25, 0.25, 0.75, 0.75]]
LEFT, RIGHT = [0.0, 0.25, 0.5, 1.0], [0.5, 0.0, 1.0, 0.5]
RING = [[0, 0, 1, 1, 1, 0, 0, 0], [0, 1, 1, 0, 1, 1, 0, 0], [0, 1, 1, 1, 1, 1, 0, 0]] + [[0] * 8] * 5
TWO = dict(reference_masks=[RING, [0.25, 0.25, 0.75, 1.0]], scene_masks=[LEFT, RIGHT])
BOXES = dict(reference_masks=[[0.25, 0.25, 0.75, 0.75]] * 2, scene_masks=[LEFT, RIGHT])
EXACT = dict(mask_dropout=0.0, start=0.0)
guided = pytest.mark.parametrize("cfg", [False, True])


def pictures(tiny, pipe, prompts=PROMPTS, cfg=True, **run):
    return tiny.run(pipe, cfg=cfg, prompt=prompts, **dict(steps=2) | run)


def masks(areas, size=8):
    """Areas as masks of a grid on which all of them are exact, without our rasteriser."""
    found = []
    for area in areas:
        mask = torch.zeros(size, size, dtype=torch.bool)
        if isinstance(area[0], list):
            mask = torch.tensor(area) > 0
        else:
            left, top, right, bottom = (round(x * size) for x in area)
            mask[top:bottom, left:right] = True
        found.append(mask)
    return found


def paper(tiny, pipe, facts, mutual, cfg=True, **run):
    """Pictures of the oracle; `mutual` names the self-attention that sees references."""
    stock = processors(pipe.unet)
    ours = {
        f"{name}.processor": ir_oracles.Paper(facts, any(m in name for m in mutual), cfg) for name in stock
    }
    pipe.unet.set_attn_processor(ours)
    out = pictures(tiny, pipe, cfg=cfg, **run)
    pipe.unet.set_attn_processor({f"{name}.processor": p for name, p in stock.items()})
    return out


def dense(q, k, v, mask, layout):
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)


def layer(method, grid, kind="self", text=slice(0, 0), ahead=False, branches=1, step=0, rotary=None, dim=4):
    """The core of one layer, in a call that has begun; text is `ahead` of the grid or behind it."""
    h, w = grid
    run = RunContext()
    vision = slice(text.stop, text.stop + h * w) if ahead else slice(0, h * w)
    run.layout, run.step, run.steps = Layout((1, h, w), text, vision), step, 4
    run.pass_ = "both" if branches == 2 else "cond"
    method = replace(method, start=0.0)
    core = method.bind(Site("a", 0, 2, dim, kind, "unet", rotary=rotary), run, dense)
    core.begin_call(torch.zeros(branches * (method.subjects + 1), 4, h, w))
    return core
