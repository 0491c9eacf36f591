"""Call a pipeline for a search: on a copy with a scheduler of its own, text encoded once, noise given."""

from __future__ import annotations

import copy
import hashlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from ..errors import MethodError
from ..families import family_of
from ..families.denoisers import denoisers
from ..models.sizes import check_size
from . import required_inputs
from .budget import Stopped
from .call import SEED_LIMIT, exact
from .failures import extra_evaluations
from .gate import Gate
from .guidance_arguments import uses_cfg
from .search_arguments import check, copies_name, repeated
from .step_callback import OnStep, on_each_step


@dataclass(frozen=True, slots=True)
class Starts:
    """The starts of candidates, prompt by prompt: row `p * n + i` is candidate `i` of prompt `p`.

    `noise [R, ...]` has unit variance. `seeds` are those of the generators that drew it; the first candidate
    of a prompt has the caller's own generator. `states` are the generators after the draw, for schedulers
    that draw noise in each step.
    """

    noise: Tensor
    seeds: tuple[int | None, ...]
    states: tuple[torch.Generator, ...]

    def take(self, rows: Sequence[int]) -> Starts:
        """Return some of the starts."""
        return Starts(
            self.noise[list(rows)],
            tuple(self.seeds[i] for i in rows),
            tuple(self.states[i] for i in rows),
        )

    def with_noise(self, noise: Tensor) -> Starts:
        """Return the same starts with other noise, which no seed makes."""
        return Starts(noise, (None,) * len(self.seeds), self.states)


class _Seen(Exception):
    """The first evaluation of a call was seen, which is all that was wanted."""


class HostCall:
    """The call of a pipeline with one or more prompts, to be made several times with noise of one's own.

    It is made on a copy of the pipeline (`pipe`) with a scheduler of its own, so the caller's objects stay as
    they are. Prompts are encoded once. The first candidate of each prompt is the picture that
    `pipe(prompt, generator=..., **call)` makes, bit for bit, unless the pipeline draws something else before
    its noise, as image-to-video pipelines do.

    Raises `UnsupportedError` for a pipeline of no known family, or without the arguments that a search needs,
    and `MethodError` for prompts, generators or latents that do not fit each other.
    """

    def __init__(
        self,
        pipe: Any,
        prompt: str | Sequence[str],
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        latents: Tensor | None = None,
        **call: Any,
    ) -> None:
        self.family = family_of(next(iter(denoisers(pipe).values())))
        check(pipe, call)
        copies = call.pop(copies_name(pipe), None) or 1
        self.prompts, self.call = repeated(prompt, copies, exact(pipe, call))
        required_inputs.check(pipe, tuple(call))
        check_size(pipe, call)
        self.pipe = copy.copy(pipe)
        self.pipe.scheduler = copy.deepcopy(pipe.scheduler)
        self.pipe.set_progress_bar_config(disable=True)
        self._encoded: list[tuple[Any, Any]] = []
        self._encode = pipe.encode_prompt
        self.pipe.encode_prompt = self._encode_once
        self._own = _own_generators(generator, len(self.prompts))
        self._states = [_state(g) for g in self._own]
        self._firsts: dict[int, Starts] = {}
        self._given = latents
        if latents is not None:
            self.check_noise(latents)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the latents of one picture for each prompt, `[P, ...]`."""
        return self.family.noise_shape(self.pipe, self._asked(1))

    def draw(self, n: int, first: int = 0) -> Starts:
        """Draw candidates `first` to `first + n` of each prompt; number 0 has the caller's generator.

        A candidate does not depend on how many are drawn. Another one than the first is made again by
        `pipe(prompt, generator=torch.Generator().manual_seed(seed))`.
        """
        parts = [self._start(p, place) for p in range(len(self.prompts)) for place in range(first, first + n)]
        return Starts(
            torch.cat([part.noise for part in parts]),
            tuple(part.seeds[0] for part in parts),
            tuple(part.states[0] for part in parts),
        )

    def _start(self, prompt: int, place: int) -> Starts:
        """Return one candidate. The caller's generator is used once, as the pipeline would use it."""
        if place == 0 and prompt in self._firsts:
            return self._firsts[prompt]
        own = self._own[prompt]
        seed = _seed(self._states[prompt], place) if place else own.initial_seed()
        generator = torch.Generator(own.device).manual_seed(seed) if place else own
        if place == 0 and self._given is not None:
            noise = self._given[prompt : prompt + 1].to(self.pipe._execution_device)
        else:
            noise = self.family.draw_noise(self.pipe, self._asked(1), [generator])
        fresh = place > 0 or (self._given is None and _is_fresh(own, self._states[prompt]))
        start = Starts(noise.float(), (seed if fresh else None,), (_clone(generator),))
        if place == 0:
            self._firsts[prompt] = start
        return start

    def dice(self, prompt: int, purpose: str) -> torch.Generator:
        """Return random numbers for a purpose of a search; the caller's generator fixes them."""
        return torch.Generator().manual_seed(_seed(self._states[prompt], purpose))

    def check_noise(self, noise: Tensor) -> None:
        """Raise `MethodError` unless `noise` has the shape of the latents of the call, and is finite."""
        shape = self.shape
        if not isinstance(noise, Tensor):
            raise MethodError(
                f"latents are a tensor of the shape {list(shape)}, got {type(noise).__name__}; give one, or "
                "leave it out."
            )
        if tuple(noise.shape) != shape:
            raise MethodError(
                f"latents of this call have the shape {list(shape)}, one for each prompt, got "
                f"{list(noise.shape)}; give noise of that shape, or leave it out."
            )
        if not torch.isfinite(noise).all():
            raise MethodError("latents must be finite, got NaN or infinity; draw the noise again.")

    def run(
        self,
        starts: Starts,
        on_step: OnStep | None = None,
        *,
        grad: bool = False,
        output_type: str = "latent",
        **more: Any,
    ) -> Tensor:
        """Call the pipeline from these starts, the same number for each prompt; return what it makes.

        `on_step` sees the index of a step and the latents after it, and may return others. With `grad`
        gradients reach the noise. `output_type="pt"` gives pictures `[R, 3, H, W]` or videos
        `[R, T, 3, H, W]` from 0 to 1. Raises `Stopped` if a callback of the caller interrupts the pipeline.
        """
        copies = len(starts.noise) // len(self.prompts)
        call = self._asked(copies) | more
        if on_step is not None:
            call |= on_each_step(on_step, self.steps, self.call)
        generators = [_clone(g) for g in starts.states]
        with _drawing_from(self.pipe.scheduler, generators):
            made = (inspect.unwrap(type(self.pipe).__call__) if grad else type(self.pipe).__call__)(
                self.pipe,
                latents=starts.noise.to(self.family.noise_dtype(self.pipe)),
                generator=generators,
                output_type=output_type,
                return_dict=False,
                **call,
            )
        if getattr(self.pipe, "_interrupt", False):  # by a callback of the caller; what was made is noise
            raise Stopped("a callback interrupted the pipeline")
        return made[0]

    def schedule(self) -> tuple[int, int]:
        """Return the steps of the call, and the evaluations of one candidate in each of them.

        The call is stopped at its first evaluation. Steps that skip or add branches are not foreseen. The
        extra pass of a guidance method counts in every step, also where it acts in some of them only.
        """
        seen: list[int] = []

        def stop(rows: int) -> None:
            seen.append(rows)
            raise _Seen

        noise = torch.zeros(self.shape, device=self.pipe._execution_device)
        starts = Starts(noise, (0,) * len(self.prompts), tuple(map(_clone, self._own)))
        gate = Gate(len(self.prompts), on_spend=stop)
        with suppress(_Seen), torch.no_grad(), gate.on(self.pipe):
            self.run(starts)
        branches = seen[0] // len(self.prompts)
        twice = branches == 1 and self.family.cfg == "two_calls" and uses_cfg(self.pipe, self._asked(1))
        return self.steps(), (2 if twice else branches) + extra_evaluations(self.pipe)

    def decode(self, latents: Tensor) -> Tensor:
        """Decode latents at the end of the call to pictures from 0 to 1, with gradients."""
        return self.family.decode(self.pipe, latents, self.call)

    def steps(self) -> int:
        """Return the number of steps of the call that runs, as the pipeline counts them."""
        return getattr(self.pipe, "num_timesteps", None) or len(self.pipe.scheduler.timesteps)

    def _asked(self, copies: int) -> dict[str, Any]:
        """Return the arguments of a call for this many candidates of each prompt."""
        media = {n: v for n in required_inputs.MEDIA if (v := self.call.get(n)) is not None}
        if not media:
            return {"prompt": self.prompts, **self.call, copies_name(self.pipe): copies}
        # Pipelines take a picture for each prompt, and do not repeat it for several results of one.
        every = self.call | {
            n: v if isinstance(v, list) else [v] * len(self.prompts) for n, v in media.items()
        }
        texts = {n: v for n, v in every.items() if isinstance(v, list) and len(v) == len(self.prompts)}
        each = {n: [x for x in v for _ in range(copies)] for n, v in texts.items()}
        return {"prompt": [p for p in self.prompts for _ in range(copies)], **every, **each}

    def _encode_once(self, *args: Any, **kwargs: Any) -> Any:
        """Encode prompts, or return what the same arguments gave before."""
        for given, made in self._encoded:
            if _same(given, (args, kwargs)):
                return made
        with torch.no_grad():
            made = self._encode(*args, **kwargs)
        self._encoded.append(((args, kwargs), made))
        return made


@contextmanager
def _drawing_from(scheduler: Any, generators: list[torch.Generator]) -> Iterator[None]:
    """Give a scheduler the generators of a call where the pipeline gives it none, as in flow matching."""
    inner, own = scheduler.step, "step" in vars(scheduler)
    if "generator" not in inspect.signature(inner).parameters:
        yield
        return

    @wraps(inner)
    def step(*args: Any, **kwargs: Any) -> Any:
        return inner(*args, **{"generator": generators} | kwargs)

    scheduler.step = step
    try:
        yield
    finally:
        if own:
            scheduler.step = inner
        else:
            del scheduler.step


def _own_generators(
    given: torch.Generator | Sequence[torch.Generator] | None, count: int
) -> list[torch.Generator]:
    if given is None:
        return [torch.Generator().manual_seed(int(torch.randint(SEED_LIMIT - 1, ()))) for _ in range(count)]
    if isinstance(given, torch.Generator):
        state = _state(given)
        more = (torch.Generator(given.device).manual_seed(_seed(state, -i)) for i in range(1, count))
        return [given, *more]
    if not isinstance(given, (list, tuple)) or not all(isinstance(g, torch.Generator) for g in given):
        raise MethodError(
            f"generator takes a torch.Generator, or a list of them, got {given!r}; write "
            "torch.Generator().manual_seed(0)."
        )
    if len(given) != count:
        raise MethodError(
            f"generator takes one generator, or one for each picture, got {len(given)} for {count}; give as "
            "many."
        )
    return list(given)


def _state(generator: torch.Generator) -> bytes:
    return generator.get_state().numpy().tobytes()


def _seed(state: bytes, place: int | str) -> int:
    """Return a seed that a generator state and a place, or a purpose, fix."""
    digest = hashlib.sha256(state + str(place).encode()).digest()
    return int.from_bytes(digest[:8], "big") % SEED_LIMIT


def _is_fresh(generator: torch.Generator, state: bytes) -> bool:
    """Return whether a generator that was in `state` had drawn nothing since it got its seed."""
    return _state(torch.Generator(generator.device).manual_seed(generator.initial_seed())) == state


def _clone(generator: torch.Generator) -> torch.Generator:
    other = torch.Generator(generator.device)
    other.set_state(generator.get_state())
    return other


def _same(a: Any, b: Any) -> bool:
    """Return whether two structures of arguments are the same; tensors are the same object or differ."""
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return a is b
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
    return type(a) is type(b) and a == b
