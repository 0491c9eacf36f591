"""Define what a reward is, and combine several of them with weights."""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Real
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from .checks import check_images, check_prompts, check_scores, to_pil

FRAMES = 8  # the most frames of a clip that are scored, evenly spaced


class Reward(ABC):
    """Score pictures. A subclass writes `_score`, and `score` checks what goes in and what comes out.

    `_score` gets a copy of the images, which it may change in place.
    `differentiable` says if gradients reach the images. A reward without them gets images without a graph.
    One with `space = "video"` gets clips [B, T, 3, H, W], all others get pictures.
    """

    name: str = "reward"
    differentiable: bool = True
    space: ClassVar[Literal["image", "video"]] = "image"

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return float32 scores [B] of images [B, 3, H, W] in 0..1 and their prompts; higher is better.

        The scores are on the device of the images. Raises `ValueError` if the images are no such batch, or if
        there is not one prompt for each.
        """
        check_images(images, self.space)
        texts = check_prompts(prompts, len(images))
        with torch.set_grad_enabled(self.differentiable and torch.is_grad_enabled()):
            # A copy, since many networks norm their images in place, and the next reward gets them too.
            found = self._score((images if self.differentiable else images.detach()).clone(), texts)
        return check_scores(found, self.name, images)

    @abstractmethod
    def _score(self, images: Tensor, prompts: list[str]) -> Any:
        """Return scores [B] of checked images and prompts."""

    def at(self, level: float) -> Reward:
        """Return the reward for pictures that were estimated at a noise level, 0 (clean) to 1 (noise)."""
        return self


class CallableReward(Reward):
    """Make a reward of a function `fn(images, prompts)` that returns [B]: a tensor, an array or a list.

    With `pil=True` it gets a list of pictures of PIL, and has no gradients. `differentiable` says if it has.
    If that is left open, it holds until scores of images with gradients come without them.
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        *,
        name: str | None = None,
        pil: bool = False,
        differentiable: bool | None = None,
    ):
        if not callable(fn):
            raise ValueError(
                f"a reward takes a function of images and prompts, got {fn!r}; pass the function"
            )
        if not _takes_two(fn):
            raise ValueError(
                f"a reward takes images and prompts, got {_name_of(fn)}{inspect.signature(fn)}; write "
                "def reward(images, prompts)"
            )
        if pil and differentiable:
            raise ValueError(
                "pictures of PIL carry no gradients, and differentiable=True asks for them; leave out one of "
                "pil and differentiable"
            )
        self.fn, self.pil = fn, pil
        self.name = name or _name_of(fn)
        self.differentiable = not pil if differentiable is None else differentiable
        self._open = differentiable is None and not pil

    def _score(self, images: Tensor, prompts: list[str]) -> Any:
        found = self.fn(to_pil(images) if self.pil else images, prompts)
        if self._open and images.requires_grad and torch.is_grad_enabled():
            self._open = False
            self.differentiable = isinstance(found, Tensor) and found.requires_grad
        return found


class _Scored(Reward):
    """Any object with a method `score`, as a reward."""

    def __init__(self, inner: Any):
        self.inner = inner
        self.name = str(getattr(inner, "name", None) or type(inner).__name__)
        self.differentiable = bool(getattr(inner, "differentiable", True))
        self.space = getattr(inner, "space", "image")

    def _score(self, images: Tensor, prompts: list[str]) -> Any:
        return self.inner.score(images, prompts)

    def at(self, level: float) -> Reward:
        there = self.inner.at(level) if hasattr(self.inner, "at") else self.inner
        return self if there is self.inner else as_reward(there)


class Ensemble:
    """Hold rewards with their weights.

    `parts` are the pairs of reward and weight, and `names` their unique names. The sum is differentiable if
    each of them is.
    """

    def __init__(self, parts: Iterable[tuple[Reward, float]]):
        self.parts = tuple(parts)
        if not self.parts:
            raise ValueError(
                "at least one reward is needed, got none; pass one, such as dx.rewards.ShapesCLIP()"
            )
        self.names = _unique([reward.name for reward, _ in self.parts])

    @property
    def differentiable(self) -> bool:
        """Say if gradients of the weighted sum reach the images through all rewards."""
        return all(reward.differentiable for reward, _ in self.parts)

    def each(self, images: Tensor, prompts: Sequence[str], level: float = 0.0) -> dict[str, Tensor]:
        """Return the scores [B] of each reward by its name.

        Images are pictures [B, 3, H, W] or clips [B, T, 3, H, W] in 0..1, estimated at noise `level`. Rewards
        of pictures score at most 8 frames of a clip, and their mean counts. Raises `ValueError` with the name
        of a reward that does not answer [B], or that claims gradients and has none.
        """
        check_images(images, "image", "video")
        texts = check_prompts(prompts, len(images))
        found = {}
        for name, (reward, _) in zip(self.names, self.parts, strict=True):
            scores = check_scores(_apply(reward.at(level), images, texts), name, images)
            asked = images.requires_grad and torch.is_grad_enabled()
            if asked and reward.differentiable and not scores.requires_grad:
                raise ValueError(
                    f"reward {name!r} says that it is differentiable, and its scores carry no gradient to "
                    "the images; set differentiable = False"
                )
            found[name] = scores
        return found

    def total(self, each: Mapping[str, Tensor]) -> Tensor:
        """Return the weighted sum [B], float32, of the scores that `each` returned."""
        pairs = zip(self.names, self.parts, strict=True)
        return torch.stack([weight * each[name].float() for name, (_, weight) in pairs]).sum(0)

    def ranks(self, each: Mapping[str, Tensor]) -> Tensor:
        """Return the weighted sum [B] over rewards of the rank in the pool.

        Rank 0 is the worst, and ties share their mean. A score that is no number ranks with the lowest.
        """
        ranked = {name: _ranks(each[name]) for name in self.names}
        return self.total(ranked)


def ensemble(rewards: Any) -> Ensemble:
    """Make an `Ensemble` of one or more rewards.

    Takes a reward, an object with `score(images, prompts)`, a function, an `Ensemble`, or a list of these or
    of pairs of one and its weight. Raises `ValueError` for anything else, and unless weights are above 0.
    """
    if isinstance(rewards, Ensemble):
        return rewards
    if not isinstance(rewards, (list, tuple)):
        return Ensemble([(as_reward(rewards), 1.0)])
    parts = []
    for entry in rewards:
        pair = isinstance(entry, (list, tuple)) and len(entry) == 2
        reward, weight = entry if pair else (entry, 1.0)
        inner = reward.parts if isinstance(reward, Ensemble) else [(as_reward(reward), 1.0)]
        factor = _weight(weight, inner[0][0].name)
        parts += [(one, factor * own) for one, own in inner]
    return Ensemble(parts)


def as_reward(given: Any) -> Reward:
    """Return `given` as a reward: one as it is, an object with `score` or a function in an adapter."""
    if isinstance(given, Reward):
        return given
    if isinstance(given, type) or not (hasattr(given, "score") or callable(given)):
        example = f"{given.__name__}()" if isinstance(given, type) else "dx.rewards.ShapesCLIP()"
        raise ValueError(
            "a reward is an object with score(images, prompts) or a function of the two, got "
            f"{given!r}; pass one, such as {example}, or a list such as [(reward, 0.5), (other, 2.0)]"
        )
    return _Scored(given) if hasattr(given, "score") else CallableReward(given)


def _apply(reward: Reward, images: Tensor, prompts: list[str]) -> Tensor:
    """Score pictures, or clips by the mean over frames where the reward looks at pictures."""
    if images.ndim == 4 or reward.space == "video":
        return reward.score(images, prompts)
    count = min(images.shape[1], FRAMES)
    frames = images[:, torch.linspace(0, images.shape[1] - 1, count).round().long()]
    scores = reward.score(frames.flatten(0, 1), [p for p in prompts for _ in range(count)])
    return scores.view(-1, count).mean(1)


def _ranks(scores: Tensor) -> Tensor:
    values = scores.detach().float().nan_to_num(nan=-math.inf, posinf=math.inf, neginf=-math.inf)
    below = (values[None] < values[:, None]).sum(1)
    equal = (values[None] == values[:, None]).sum(1)
    return below + (equal - 1) / 2


def _weight(weight: Any, name: str) -> float:
    number = isinstance(weight, Real) and not isinstance(weight, bool)
    if number and 0 < weight < math.inf:
        return float(weight)
    step = "write the scores of its function with the other sign" if number and weight < 0 else "set one"
    raise ValueError(
        f"the weight of a reward must be a finite number above 0, got {weight!r} for {name!r}; "
        + ("leave it out" if number and not weight else step)
    )


def _takes_two(fn: Callable[..., Any]) -> bool:
    """Return whether a function takes images and prompts, as far as its signature says."""
    try:
        inspect.signature(fn, follow_wrapped=False).bind(None, None)  # a decorator may add the prompts
    except ValueError:  # functions written in C may have none
        return True
    except TypeError:
        return False
    return True


def _name_of(fn: Any) -> str:
    name = getattr(fn, "__name__", None) or type(fn).__name__
    return name if name.isidentifier() else "reward"  # "<lambda>"


def _unique(names: Sequence[str]) -> tuple[str, ...]:
    """Number the second and later ones of equal names: fn, fn-2, fn-3."""
    found: list[str] = []
    for name in names:
        number, unique = 1, name
        while unique in found:
            number += 1
            unique = f"{name}-{number}"
        found.append(unique)
    return tuple(found)
