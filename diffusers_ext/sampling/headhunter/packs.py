"""Draw the same picture under several heads in one call of a pipeline, and score what comes of it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...errors import MethodError
from ...processors.head_set import Head
from ...processors.softpag import SoftPAG
from ...rewards.base import Ensemble
from ...session.session import Session, apply
from ..gate import Gate
from ..host_call import HostCall
from .log import Entry, Pack
from .pairs import Pair


class _Seen(Exception):
    """The first step of a call was seen, which is all that was wanted."""


class Painter:
    """Draws packs with one pipeline and one set of settings; every row has the same prompt and noise."""

    def __init__(
        self, pipe: Any, guidance: SoftPAG, rewards: Ensemble, pairs: Sequence[Pair], call: Mapping[str, Any]
    ) -> None:
        self.pipe, self.guidance, self.rewards = pipe, guidance, rewards
        self.pairs, self.call = pairs, call
        self._prepared: tuple[int, HostCall] | None = None

    def host(self, pair: int) -> HostCall:
        """Return the call of a pair; that of the last pair is kept, with its text encoded."""
        if self._prepared is None or self._prepared[0] != pair:
            asked = self.pairs[pair]
            generator = torch.Generator("cpu").manual_seed(asked.seed)
            host = HostCall(self.pipe, asked.prompt, generator, **self.call)
            if len(host.prompts) != 1:
                raise MethodError(
                    f"a search for heads draws one picture for each pair, got {len(host.prompts)} results of "
                    "a prompt; leave out num_images_per_prompt, and give more pairs."
                )
            self._prepared = pair, host
        return self._prepared[1]

    def draw(self, pack: Pack) -> list[Entry]:
        """Draw and score a pack; the pictures are rows of one call."""
        host = self.host(pack.pair)
        gate = Gate(len(pack.heads))
        with self.applied(pack), torch.no_grad(), gate.on(host.pipe):
            pictures = host.run(host.draw(1).take([0] * len(pack.heads)), output_type="pt")
            each = self.rewards.each(pictures.float(), host.prompts * len(pack.heads))
        total = self.rewards.total(each).tolist()
        return [Entry(finite(score), cost) for score, cost in zip(total, gate.spent, strict=True)]

    def move(self, pack: Pack) -> list[Entry]:
        """Return the L2 distance by which each head moves the latents in the first step.

        The first row of the call is the plain one. The call ends after the step.
        """
        host, rows = self.host(pack.pair), replace(pack, heads=(None, *pack.heads))
        gate, moved = Gate(len(rows.heads)), []

        def see(step: int, latents: Tensor) -> None:
            moved.extend((latents - latents[:1]).double().flatten(1).norm(dim=1).tolist())
            raise _Seen

        with self.applied(rows), torch.no_grad(), gate.on(host.pipe), suppress(_Seen):
            host.run(host.draw(1).take([0] * len(rows.heads)), see)
        each = zip(moved[1:], gate.spent[1:], strict=True)
        return [Entry(finite(change), cost) for change, cost in each]

    def applied(self, pack: Pack) -> Session:
        """Apply the guidance with one set of heads for each row."""
        rows = [heads_of([*pack.base, *([] if head is None else [head])]) for head in pack.heads]
        return apply(self.pipe, *([replace(self.guidance, heads=rows)] if any(rows) else []))


def heads_of(heads: Sequence[Head]) -> dict[str, list[int]]:
    """Return heads as SoftPAG takes them: module path -> head numbers."""
    found: dict[str, list[int]] = {}
    for path, number in heads:
        found.setdefault(path, []).append(number)
    return found


def finite(score: float) -> float | None:
    """Return a score, or `None` if it is no finite number."""
    return score if math.isfinite(score) else None


def weights_mark(models: Mapping[str, torch.nn.Module]) -> str:
    """Return a short checksum of a few numbers of each parameter, to distinguish weights of one class.

    Parameters that are elsewhere, as under offload to the disk, do not count.
    """
    total = hashlib.sha256()
    for component, model in models.items():
        for name, value in model.named_parameters():
            some = value.detach().flatten()[:16]
            numbers = b"" if some.is_meta else some.float().cpu().numpy().tobytes()
            total.update(f"{component} {name} {tuple(value.shape)}".encode() + numbers)
    return total.hexdigest()[:16]
