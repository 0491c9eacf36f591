"""Measure the memory of an optimisation of noise, by an iteration that really runs."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ..errors import UnsupportedError
from ..models.memory import Live
from ..rewards.base import ensemble
from .reno_levers import modules_of
from .sampler import Sampler

# Each option that lowers memory alone, against the same settings without any of them.
NONE: dict[str, Any] = dict(
    checkpoint_denoiser=False,
    checkpoint_decoder=False,
    checkpoint_rewards=False,
    one_by_one=False,
    offload_rewards=False,
    grad_steps=None,
)
ALONE: dict[str, dict[str, Any]] = {
    "none": {},
    "checkpoint_denoiser": {"checkpoint_denoiser": True},
    "checkpoint_decoder": {"checkpoint_decoder": True},
    "checkpoint_rewards": {"checkpoint_rewards": True},
    "one_by_one": {"one_by_one": True},
    "grad_steps=1": {"grad_steps": 1},
}


def peaks(options: Sampler, pipe: Any, prompt: Any, **call: Any) -> dict[str, int]:
    """Return bytes at the peak by option.

    On a GPU they are those of its allocator. On a CPU they are the tensors that PyTorch's operators return.
    Options that a model does not have are left out. Weights that are in memory before are not counted.
    """
    call = {"progress": False, **call}
    short = replace(
        options,
        iterations=2,
        patience=None,
        budget=None,
        seconds=None,
        refine=None,
        transfer=None,
        fresh=False,
    )
    found = {"as set": _peak(short, pipe, prompt, call)}
    bare = replace(short, decode_grad=None, **NONE)
    lowered = {name: replace(bare, **change) for name, change in ALONE.items()}
    if options.decode_grad is not None:
        lowered["decode_grad"] = replace(bare, decode_grad=options.decode_grad)
    for name, settings in lowered.items():
        try:
            found[name] = _peak(settings, pipe, prompt, call)
        except UnsupportedError:
            continue
    return found


def _peak(options: Sampler, pipe: Any, prompt: Any, call: dict[str, Any]) -> int:
    device = torch.device(getattr(pipe, "_execution_device", None) or pipe.device)
    if device.type == "cuda":
        gc.collect()
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        options.sample(pipe, prompt, **call)
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with _counted(options, pipe) as live:
        options.sample(pipe, prompt, **call)
    return live.peak


@contextmanager
def _counted(options: Sampler, pipe: Any) -> Iterator[Live]:
    """Count tensors, without those of the weights."""
    networks = [module for reward, _ in ensemble(options.rewards).parts for module in modules_of(reward)]
    networks += [part for part in pipe.components.values() if isinstance(part, nn.Module)]
    networks += [options.decode_grad] if isinstance(options.decode_grad, nn.Module) else []
    live = Live()
    kept = [tensor.untyped_storage() for m in networks for tensor in (*m.parameters(), *m.buffers())]
    for storage in kept:
        live.note(storage)
    live.now = live.peak = 0
    with live:
        yield live
