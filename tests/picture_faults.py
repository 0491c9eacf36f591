"""Faults put into real pipelines by hooks on their autoencoder, for one picture or for batches."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


def decoder(pipe) -> nn.Module:
    return pipe.vae.decoder


class Fault:
    """Acts on the pictures drawn with one of `seeds`, whatever batch they come in.

    The seeds of a batch are those of the generators that the host draws its noise with; rows keep their order
    up to the autoencoder. `calls` counts how often that runs, `made` are all seeds that were begun.
    """

    def __init__(self, pipe, seeds, act: Callable[[Tensor, list[int]], Tensor | None]) -> None:
        self.pipe, self.seeds, self.act = pipe, seeds, act
        self.calls, self.rows, self.made = 0, [], []
        prepare = pipe.prepare_latents

        def noted(*args, **kwargs):
            given = kwargs.get("generator", next((a for a in args if _generators(a)), None))
            self.rows = [g.initial_seed() for g in (given if isinstance(given, list) else [given])]
            self.made += self.rows
            return prepare(*args, **kwargs)

        pipe.prepare_latents = noted
        decoder(pipe).register_forward_pre_hook(self._before)

    def _before(self, module, inputs):
        self.calls += 1
        hit = [i for i, seed in enumerate(self.rows) if seed in self.seeds and i < len(inputs[0])]
        if hit and (changed := self.act(inputs[0], hit)) is not None:
            return (changed, *inputs[1:])
        return None


def _generators(value) -> bool:
    return isinstance(value, torch.Generator) or (
        isinstance(value, list) and bool(value) and isinstance(value[0], torch.Generator)
    )


def out_of_memory(latents, rows):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def any_error(latents, rows):
    raise RuntimeError("mat1 and mat2 shapes cannot be multiplied (3x4 and 5x6)")


def not_a_number(latents, rows):
    latents = latents.clone()
    latents[rows] = float("nan")
    return latents
