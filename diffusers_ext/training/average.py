"""Average the weights over a run, and put the averages of a checkpoint back into a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from .objective import Objective


class Average:
    """Keep an exponential moving average of parameters, in fp32, over few steps while the run is young.

    `EMAModel` of diffusers begins with a decay of 0, this class with 0.1. It also rounds in another way, so
    runs could not be repeated with it.
    """

    def __init__(self, parameters: Iterable[torch.Tensor], decay: float):
        self.live = list(parameters)
        self.mean = [p.detach().float().clone() for p in self.live]
        self.decay = decay

    def update(self, step: int) -> None:
        """Take in the parameters after step number `step`, counted from 0."""
        import torch

        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.mean, [p.detach() for p in self.live], 1 - decay)

    def swap(self) -> None:
        """Exchange live and averaged values in place; call it again to undo."""
        import torch

        with torch.no_grad():
            for live, mean in zip(self.live, self.mean, strict=True):
                kept = live.clone()
                live.copy_(mean)
                mean.copy_(kept)


def restore(parameters: Mapping[str, torch.nn.Parameter], values: Mapping[str, torch.Tensor]) -> None:
    """Copy values into the parameters of the same names, in place."""
    import torch

    if parameters.keys() != values.keys():
        odd = sorted(parameters.keys() ^ values.keys())[:3]
        raise ValueError(
            f"a checkpoint must hold exactly the trained parameters, these differ: {odd}; train from scratch"
        )
    with torch.no_grad():
        for name, p in parameters.items():
            p.copy_(values[name])


def averaged(objective: Objective, checkpoint: Mapping[str, object]) -> None:
    """Put the averaged weights of a checkpoint into the model."""
    parameters = objective.parameters()
    restore(parameters, dict(zip(parameters, checkpoint["average"], strict=True)))
