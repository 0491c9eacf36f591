"""Train a text encoder of another kind to read as shapes-clip does, before a denoiser learns with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch

from ...zoo.catalogue import path
from ...zoo.world.clips import sample_script
from ...zoo.world.scenes import sample_spec
from ..data.teacher_pairs import token_ids
from ..machine import precision
from ..prepare import preparing

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BATCH = 128  # captions
LR = 2e-3


def captions(seed: int, first: int, count: int) -> list[str]:
    """Return captions of training clips and pictures in turn, from number `first` on; nothing held out."""
    dice = (np.random.default_rng((seed, number)) for number in range(first, first + count))
    return [(sample_spec if i % 2 else sample_script)(rng).caption for i, rng in enumerate(dice)]


def imitate_reward(
    encoder: torch.nn.Module,
    read: Callable[[torch.Tensor], torch.Tensor],
    tokenizer: PreTrainedTokenizerBase,
    steps: int,
    seed: int,
) -> float:
    """Train `encoder` for `steps` steps to give the same states as the text half of shapes-clip.

    `read` uses the encoder on ids [B, 24] and returns states [B, 24, 128]. States that are zero are left out.
    Returns the last mean square of the error as a share of the target's variance.
    """
    from transformers import CLIPModel

    tower = CLIPModel.from_pretrained(path("shapes-clip"), dtype=torch.float32).text_model.eval()
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=LR, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=max(steps, 2), pct_start=0.1)
    error = torch.tensor(1.0)
    with preparing(f"the text encoder, {steps} steps in which it learns to read", steps) as tick:
        for step in range(steps):
            ids = token_ids(tokenizer, captions(seed, step * BATCH, BATCH))
            with torch.autocast("cpu", torch.bfloat16, enabled=precision() == "bf16"):
                with torch.no_grad():
                    target = tower(ids)[0].float()
                states = read(ids).float()
            seen = (states != 0).any(-1)
            error = (states[seen] - target[seen]).square().mean() / target[seen].var()
            error.backward()
            torch.nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            tick(1)
    return error.item()
