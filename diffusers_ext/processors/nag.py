"""NAG, normalised attention guidance: negative prompts in attention, without a second prediction.

Paper: Chen et al., "Normalized Attention Guidance" (arXiv 2505.21179), algorithm 1. Attention to the prompt
gives `Z+`, attention of the same queries to the negative prompt gives `Z-`. Grid tokens go on with `Z+` moved
away from `Z-`, with a bound on its length.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..core import Core, Layout, RunContext, SecondText, Site, Slot, nearest_names, no_steps, step_window
from ..errors import MethodError
from ..settings.fields import check_bounds, fit_fields, setting


@dataclass(frozen=True)
class NAG(SecondText):
    """Normalised attention guidance: negative prompts in attention, with or without other guidance.

    `E = scale Z+ - (scale - 1) Z-` is cut to `tau` times the L1 length of `Z+`, token by token over all
    channels. The result is `alpha E + (1 - alpha) Z+`. The `scale` is that of the published code, which the
    paper calls `1 + phi`. Unconditional rows stay as they are. In joint attention the negative prompt has a
    text stream of its own, with the pooled embedding of the prompt. A `scale` of 1 and an `alpha` of 0 are
    the plain model, bit for bit. `dx.preset(pipe, "nag")` has the settings that are known for a pipeline.
    Raises `MethodError` for settings out of range and unknown layers.
    """

    name: ClassVar[str] = "nag"
    slots: ClassVar[frozenset[Slot]] = frozenset({Slot.TEXT})
    reads_layout: ClassVar[bool] = False  # the grid is what no text is
    order_free: ClassVar[bool] = True  # every token is guided by itself

    negative_prompt: str = setting("", "text", "to lead away from; the empty text is one, too")
    scale: float = setting(5.0, "factor", "of Z+ in scale Z+ - (scale - 1) Z-; 1 is off", bounds=(1.0, 50.0))
    tau: float = setting(
        2.5, "ratio", "the greatest L1 length of a guided token, in lengths of Z+", bounds=(1.0, 100.0)
    )
    alpha: float = setting(0.25, "share", "of the guided result in the mean with Z+", bounds=(0.0, 1.0))
    layers: Sequence[str] | None = setting(
        None, "module paths", "modules or blocks to guide; none: all that attend to the text"
    )
    start: float = setting(0.0, "fraction of steps", "first guided step", bounds=(0.0, 1.0))
    stop: float = setting(1.0, "fraction of steps", "end of the guided steps", bounds=(0.0, 1.0))

    def __post_init__(self) -> None:
        fit_fields(self)
        if self.scale < 1.0:
            raise MethodError(
                f"NAG scale must be 1 or more, got {self.scale}: below 1 pictures lead towards the negative "
                "prompt; 3 to 11 is usual, and 1 is off."
            )
        check_bounds(self)
        if self.start > self.stop:
            raise MethodError(
                "NAG needs 0 <= start <= stop <= 1 (fractions of steps), "
                f"got start={self.start}, stop={self.stop}."
            )
        if self.layers is not None and not self.layers:
            raise MethodError("NAG layers is a list of module paths, got none in it; leave it out for all.")

    @property
    def text(self) -> str:
        return self.negative_prompt

    def select(self, sites: Sequence[Site]) -> list[Site]:
        """Select every site that attends to the text: each must know which of its tokens are negative."""
        found = [site for site in sites if site.kind != "self"]
        for layer in self.layers or ():
            if not any(_inside(site, layer) for site in found):
                closest = ", ".join(nearest_names(layer, [s.name for s in found]))
                raise MethodError(
                    f"NAG found no attention to the text in {layer!r}; the nearest names are {closest}."
                )
        return found

    def changes(self, site: Site) -> bool:
        return self.layers is None or any(_inside(site, layer) for layer in self.layers)

    def active(self, run: RunContext) -> bool:
        if self._is_off():
            return False
        if (self.start, self.stop) == (0.0, 1.0) or run.step is None:
            return self.start < self.stop
        return run.step in step_window(self.start, self.stop, run.steps)

    def idle(self, run: RunContext) -> str | None:
        if self._is_off():
            return None
        return no_steps(self.start, self.stop, run.steps)

    def bind(self, site: Site, run: RunContext, inner: Core) -> Core:
        kind = _CrossCore if site.kind == "cross" else _JointCore
        return kind(self, run, inner, self.changes(site))

    def _is_off(self) -> bool:
        return self.scale == 1.0 or self.alpha == 0.0


def guided(positive: Tensor, negative: Tensor, scale: float, tau: float, alpha: float) -> Tensor:
    """Return the guided output of attention `[B, N, H, D]`, from those of the two texts (algorithm 1).

    Lengths are L1 norms over heads and channels, summed in fp32 or better. A token of length 0 stays 0.
    """
    exact = torch.promote_types(positive.dtype, torch.float32)
    away = torch.lerp(negative, positive, scale)
    most = tau * positive.abs().sum((2, 3), keepdim=True, dtype=exact)
    length = away.abs().sum((2, 3), keepdim=True, dtype=exact)
    shrink = (most / length.clamp_min(torch.finfo(exact).tiny)).clamp_max(1.0)
    return torch.lerp(positive, away * shrink.to(away.dtype), alpha)


class _Core:
    """A core that guides the conditional rows of a call with a second text, and passes others on."""

    def __init__(self, method: NAG, run: RunContext, inner: Core, guides: bool) -> None:
        self.method, self.run, self.inner, self.guides = method, run, inner, guides

    def first(self, batch: int) -> int:
        """Return the first conditional row; in one batch of both branches they are the second half."""
        return batch // 2 if self.run.pass_ == "both" and not self.run.perturbed else 0

    def grid(self, own: Tensor, other: Tensor) -> Tensor:
        """Return the grid tokens of all rows; `other` has those of conditional rows for the second text."""
        if not self.guides:
            return own
        first = len(own) - len(other)
        method = self.method
        conditional = guided(own[first:], other, method.scale, method.tau, method.alpha)
        return torch.cat([own[:first], conditional]) if first else conditional


class _CrossCore(_Core):
    """The keys of the second text stand behind those of the prompt; the queries are the same."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, layout: Layout | None) -> Tensor:
        count = self.run.second_text
        if not count:
            return self.inner(q, k, v, mask, layout)
        shown = mask if mask is None else mask[..., :-count]
        own = self.inner(q, k[:, :-count], v[:, :-count], shown, layout)
        if not self.guides:
            return own
        rows = slice(self.first(len(q)), None)
        mask = mask if mask is None else mask[rows, ..., -count:]
        return self.grid(own, self.inner(q[rows], k[rows, -count:], v[rows, -count:], mask, layout))


class _JointCore(_Core):
    """The prompt is between the second text and the grid; both texts have the same number of tokens.

    The grid goes on with one stream, guided, and either text with its own. So `Z-` has the queries of `Z+`.
    """

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, layout: Layout | None) -> Tensor:
        count = self.run.second_text
        if not count:
            return self.inner(q, k, v, mask, layout)
        ahead = self.run.text_first
        first = self.first(len(q))
        own = self.inner(*(x[:, count:] if ahead else x[:, :-count] for x in (q, k, v)), mask, layout)
        other = self.inner(*(_without_prompt(x[first:], count, ahead) for x in (q, k, v)), mask, layout)
        (text, grid), (second, grid_other) = (_apart(x, count, ahead) for x in (own, other))
        if first:  # nothing reads the second text of unconditional rows
            second = torch.cat([second.new_zeros(first, *second.shape[1:]), second])
        grid = self.grid(grid, grid_other)
        return torch.cat([second, text, grid] if ahead else [grid, text, second], dim=1)


def _apart(x: Tensor, count: int, ahead: bool) -> tuple[Tensor, Tensor]:
    """Return the text of `count` tokens and the grid of a joint sequence `x [B, S, H, D]`."""
    return (x[:, :count], x[:, count:]) if ahead else (x[:, -count:], x[:, :-count])


def _without_prompt(x: Tensor, count: int, ahead: bool) -> Tensor:
    """Take the prompt of `count` tokens out of a joint sequence `x [B, S, H, D]` with two texts."""
    parts = [x[:, :count], x[:, 2 * count :]] if ahead else [x[:, : -2 * count], x[:, -count:]]
    return torch.cat(parts, dim=1)


def _inside(site: Site, path: str) -> bool:
    """Return whether a site is the module at a path, or in the block at that path."""
    return any(name == path or name.startswith(f"{path}.") for name in (site.name, site.path))
