"""Optimise the initial noise of a picture along the gradient of rewards."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ..errors import MethodError
from ..families.denoisers import denoisers
from ..settings.fields import setting
from .budget import Budget, Stopped
from .host_call import HostCall, Starts
from .reno_ascent import Ascent
from .reno_levers import checkpointed, checkpointed_layers, frozen, modules_of, on_device
from .reno_view import Viewer, without_gradient
from .sampler import Sampler
from .search import Search

SIZES = "height", "width", "num_frames"  # of the call, which the call of `transfer` takes over


@dataclass(frozen=True, kw_only=True)
class ReNO(Sampler):
    """Moves the noise of each prompt along the gradient of the rewards, and keeps the best picture.

    Each iteration makes a picture, scores it, and steps the noise by SGD with Nesterov momentum or by Adam.
    Its gradient is clipped for each prompt, and a prior keeps the length of the noise usual. Iteration 0 is
    the picture of the plain pipeline, and the last iteration only scores. So no result is below the plain
    one. Noise that the scheduler draws is the same in each iteration.

    It is meant for pipelines of one step. With more steps, gradients run through all of them, or through the
    last `grad_steps`. Then earlier predictions count as constants, and the noise reaches the last steps
    through the mix of the scheduler alone, which is an approximation.

    `transfer` is another pipeline whose latents have the same shape. It draws the result from the best noise,
    with the arguments in `transfer_call`. `decode_grad` is a small autoencoder that carries the gradients in
    place of the pipeline's own, which is an approximation, too; pictures are still scored with the
    pipeline's own. The options for memory change no result otherwise.

    Paper: ReNO (2406.04312), algorithm 1. Raises `MethodError` for settings out of bounds, and for rewards
    without gradients.
    """

    name: ClassVar[str] = "reno"
    grows: ClassVar[str] = "iterations"
    iterations: int = setting(50, "iterations", "of each prompt, with the plain picture", (1, None))
    lr: float = setting(5.0, "times", "the gradient is a step; larger for fewer iterations", (0.0, None))
    momentum: float = setting(0.9, "share", "of the last step that goes on; for sgd", (0.0, 1.0))
    nesterov: bool = setting(True, "", "look ahead along the momentum; for sgd")
    optimizer: Literal["sgd", "adam"] = setting("sgd", "", "how steps follow from gradients")
    clip: float | None = setting(0.1, "length", "of the gradient of a prompt, at most", (0.0, None))
    norm_weight: float = setting(0.01, "weight", "of the prior on the length of the noise", (0.0, None))
    patience: int | None = setting(
        None, "iterations", "without a better picture, after which it stops", (1, None)
    )
    fresh: bool = setting(False, "", "draw new noise each time and take no gradients, as best of n does")
    grad_steps: int | None = setting(None, "steps", "that gradients run through, the last ones", (1, None))
    transfer: Any = None
    transfer_call: Any = None
    decode_grad: Any = None
    checkpoint_denoiser: bool = setting(False, "", "run blocks of the denoiser again in the backward pass")
    checkpoint_decoder: bool = setting(False, "", "run blocks of the autoencoder again in the backward pass")
    checkpoint_rewards: bool = setting(False, "", "run layers of rewards again in the backward pass")
    one_by_one: bool = setting(True, "", "propagate one reward back before the next one runs")
    offload_rewards: bool = setting(False, "", "keep rewards on the CPU while they do not score")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lr == 0 or self.clip == 0:
            raise MethodError("ReNO lr and clip must be above 0, got 0, which never moves; try fresh=True.")
        if self.offload_rewards and not self.one_by_one:
            raise MethodError(
                "offload_rewards moves a reward away before the next one runs, so it needs one_by_one=True, "
                "got one_by_one=False; leave that out."
            )
        if self.transfer_call is not None and not isinstance(self.transfer_call, Mapping):
            raise MethodError(
                f"transfer_call holds arguments of the other pipeline by name, got {self.transfer_call!r}; "
                "write transfer_call={'num_inference_steps': 20}."
            )

    def optimiser_of(self, noise: Tensor) -> torch.optim.Optimizer:
        """Return the optimiser that moves `noise` in place, down what is in its `grad`."""
        if self.optimizer == "adam":
            return torch.optim.Adam([noise], self.lr, eps=1e-2)
        nesterov = self.nesterov and self.momentum > 0
        return torch.optim.SGD([noise], self.lr, momentum=self.momentum, nesterov=nesterov)

    def search(self, search: Search) -> None:
        """Move the noise, then let the pipeline itself, or the other one, draw from what was best."""
        climbing = not self.fresh and self.iterations > 1
        if climbing and (flat := [r.name for r, _ in search.rewards.parts if not r.differentiable]):
            raise MethodError(without_gradient(flat))
        with torch.inference_mode(False):
            other = self._other(search)
            stopped = None
            try:
                with self._levers(search, climbing):
                    self._climb(search, climbing, other)
            except Stopped as reason:
                stopped = reason
            if all(search.best):
                self._drawn(search, other)
            if stopped is not None:
                raise stopped

    def memory(self, pipe: Any, prompt: Any, **call: Any) -> dict[str, int]:
        """Measure the bytes that one iteration with gradients takes at its peak, beside the weights.

        One entry is for these settings, and one for each option that lowers memory alone. `call` holds what
        `sample` takes. A step is really made, so it costs an iteration for each entry. The pipeline stays as
        it is.
        """
        from .reno_memory import peaks

        return peaks(self, pipe, prompt, **call)

    def _climb(self, search: Search, climbing: bool, other: HostCall | None) -> None:
        viewer = Viewer(search, self.grad_steps, self.decode_grad, self.one_by_one, self.offload_rewards)
        last = viewer.cost(1, False) if other is None and self._marks(search) else 0
        more = viewer.cost(2, climbing) - viewer.cost(1, climbing)
        first = viewer.cost(1, climbing) + last
        self.affordable(search, first)  # raises if it does not pay for the first
        n = (
            self.iterations
            if self.budget is None
            else min(self.iterations, 1 + (self.budget - first) // more)
        )
        search.budget.planned = (first + (n - 1) * more) * len(search.host.prompts)
        Ascent(self, search, viewer, n).run()
        if n < self.iterations:
            raise Stopped(f"its budget of {self.budget} evaluations is spent")

    @contextmanager
    def _levers(self, search: Search, climbing: bool) -> Iterator[None]:
        """Lower the memory that gradients need; all is as before afterwards."""
        pipe, rewards = search.host.pipe, [reward for reward, _ in search.rewards.parts]
        for reward in rewards:
            getattr(reward, "model", None)  # those that load their network on use load it now
        networks = [module for reward in rewards for module in modules_of(reward)]
        parts = [part for part in pipe.components.values() if isinstance(part, nn.Module)]
        if isinstance(self.decode_grad, nn.Module):
            parts.append(self.decode_grad)
        with ExitStack() as stack:
            if self.offload_rewards:
                stack.enter_context(on_device(networks, "cpu"))
            if climbing:
                stack.enter_context(frozen([*parts, *networks]))
                if self.checkpoint_denoiser:
                    for model in denoisers(pipe).values():
                        stack.enter_context(checkpointed(model, "checkpoint_denoiser"))
                if self.checkpoint_decoder:
                    decoder = pipe.vae if self.decode_grad is None else self.decode_grad
                    stack.enter_context(checkpointed(decoder, "checkpoint_decoder"))
                if self.checkpoint_rewards:
                    stack.enter_context(checkpointed_layers(networks))
            yield

    def _marks(self, search: Search) -> bool:
        """Return whether the pipeline checks or marks its pictures, which `decode` does not."""
        pipe = search.host.pipe
        return any(getattr(pipe, part, None) is not None for part in ("safety_checker", "watermark"))

    def _drawn(self, search: Search, other: HostCall | None) -> None:
        """Draw the best noise once more where the picture is to come from elsewhere."""
        if other is None and not self._marks(search):
            return
        best, host = search.best, search.host if other is None else other
        budget = Budget()
        again = Search(host, search.rewards, budget, self.micro_batch)
        starts = [b.start for b in best]
        given = Starts(
            torch.cat([s.noise for s in starts]).to(host.pipe._execution_device),
            tuple(s.seeds[0] for s in starts),
            tuple(s.states[0] for s in starts),
        )
        try:
            again.play(given)
        except Stopped:  # pictures that no safety checker has seen are not returned
            best[:] = [None] * len(best)
            raise
        for prompt, found in enumerate(again.best):
            held = best[prompt]
            score, each = (held.score, held.each) if other is None else (found.score, found.each)
            best[prompt] = type(held)(score, each, found.image, held.start, held.candidate)
        search.budget.evaluations += budget.evaluations
        search.budget.scored += budget.scored
        search.budget.decoded += budget.decoded

    def _other(self, search: Search) -> HostCall | None:
        """Return the call of the other pipeline; raises `MethodError` if its latents have another shape."""
        if self.transfer is None:
            return None
        host = search.host
        known = inspect.signature(type(self.transfer).__call__).parameters
        sizes = {name: host.call[name] for name in SIZES if name in host.call and name in known}
        other = HostCall(self.transfer, host.prompts, **(sizes | dict(self.transfer_call or {})))
        if other.shape != host.shape:
            raise MethodError(
                f"transfer takes a pipeline whose latents have the shape {list(host.shape)} of this one, got "
                f"{type(self.transfer).__name__} with {list(other.shape)}; give its size in transfer_call."
            )
        return other
