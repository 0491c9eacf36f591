"""HeadHunter: find the attention heads whose perturbation makes pictures that score best.

Paper: Ahn et al., "Where and How to Perturb" (arXiv 2506.10978), algorithm 1.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, fields
from pathlib import Path
from typing import Any

from ...core import Site, nearest_names
from ...errors import MethodError
from ...families.denoisers import denoisers
from ...processors.head_set import Head, HeadSet, Pick, facts_of
from ...processors.softpag import SoftPAG
from ...rewards.base import ensemble
from ...session.checks import inspect
from ...settings.fields import check_bounds, fit_fields, setting
from ..budget import Stopped
from .log import ALL, HeadLog
from .packs import Painter, weights_mark
from .pairs import pairs_of
from .rounds import Rounds, Scores, Waiting, ranked

USUAL_TOP_K = 24  # of the paper, for the 576 heads of SD3
QUALITY = SoftPAG(scale=3.0, strength=0.25)  # w and u of the paper's searches for quality
STYLE = SoftPAG(scale=3.0, strength=1.0)
OURS = "prompt", "generator", "latents", "output_type"  # arguments of a call that the search gives


@dataclass(frozen=True)
class HeadHunter:
    """Finds the heads to perturb: each round scores every head with those found before, and takes the best.

    `reward` is a reward, any `function(images, prompts)`, or a list of them or of pairs with a weight. The
    score of a head is the mean over pairs of a prompt and a seed. `guidance` has scale, strength and scope
    of the search. The defaults are the paper's for general quality, as `HeadHunter.quality` says;
    `HeadHunter.style` has those for a style.
    """

    reward: Any
    _: KW_ONLY
    rounds: int = setting(1, "rounds", "each scores every head that is left", bounds=(1, None))
    top_k: int | None = setting(
        None,
        "heads",
        "taken in each round; none: 24, or a quarter of the heads if that is less",
        bounds=(1, None),
    )
    pairs: int = setting(
        20, "pairs", "of a prompt and a seed; prompts are repeated with further seeds", bounds=(1, None)
    )
    pack: int = setting(8, "heads", "that one call of the pipeline draws, a row each", bounds=(1, None))
    prefix: str = setting("", "text", "put before each prompt, such as the words of a style")
    layers: Sequence[str] | None = setting(
        None, "module paths", "modules or blocks whose heads are tried; none: all that SoftPAG can use"
    )
    guidance: SoftPAG = QUALITY

    def __post_init__(self) -> None:
        fit_fields(self)
        check_bounds(self)
        ensemble(self.reward)
        if self.guidance.heads is not None:
            raise MethodError(
                "HeadHunter finds the heads, got guidance with heads of its own; leave them out."
            )
        if not isinstance(self.guidance.strength, float):
            raise MethodError(
                f"HeadHunter needs one strength for all heads, got {self.guidance.strength}; write "
                "guidance=dx.SoftPAG(scale=3, strength=0.25)."
            )
        if why := self.guidance.why_never():
            raise MethodError(f"HeadHunter compares what heads change, and guidance with {why}.")

    @classmethod
    def quality(cls, reward: Any, **settings: Any) -> HeadHunter:
        """Search for general quality: one round of 24 heads, on 20 pairs, with w = 3 and u = 0.25 (D.1)."""
        return cls(reward, **settings)

    @classmethod
    def style(cls, reward: Any, style: str, **settings: Any) -> HeadHunter:
        """Search for a style, whose words come first in each prompt.

        It takes five rounds of three heads, on 5 pairs, with w = 3 and u = 1 (section 5). Pictures are then
        made with a smaller u.
        """
        usual = {"rounds": 5, "top_k": 3, "pairs": 5, "guidance": STYLE, "prefix": f"{style}, "}
        return cls(reward, **usual | settings)

    def search(
        self,
        pipe: Any,
        prompts: str | Sequence[str],
        seeds: int | Sequence[int] = 0,
        *,
        out: Path | str | None = None,
        shard: tuple[int, int] = ALL,
        progress: bool | None = None,
        stop: Callable[[], bool] | None = None,
        model: str = "",
        **call: Any,
    ) -> HeadSet | None:
        """Return the heads that score best on pairs of these prompts and seeds.

        `seeds` has a seed for each pair, or is the first of them. `call` holds further arguments of
        `pipe(...)`. With the folder `out` every score is logged, and a search goes on where it stopped.
        `shard` (i, n) draws the i-th of n parts; it returns `None` where parts of others are missing in
        `out`. `stop` is asked before each call of the pipeline. `model` is the name in the head set.

        Raises `MethodError` for settings that do not fit the model, for the log of another search, and where
        `stop` answers true.
        """
        found = {component: inspect(component, part) for component, part in denoisers(pipe).items()}
        facts = {c: facts_of(type(d.model).__name__, d.sites) for c, d in found.items()}
        pool = self._pool([s for d in found.values() for s in d.sites], len(found) > 1)
        count = self._count(len(pool))
        if taken := [name for name in OURS if name in call]:
            raise MethodError(f"HeadHunter gives a pipeline its {taken[0]}, got one; leave it out.")
        pairs = pairs_of(prompts, seeds, self.pairs, self.prefix)
        _check_shard(shard, out)
        rewards = ensemble(self.reward)
        settings = {f.name: getattr(self.guidance, f.name) for f in fields(SoftPAG) if f.name != "heads"}
        identity = {
            "search": type(self).__name__,
            "pipeline": type(pipe).__name__,
            "scheduler": [type(pipe.scheduler).__name__, _config(pipe.scheduler)],
            "dtypes": {c: str(d.model.dtype) for c, d in found.items()},
            "denoisers": facts,
            "weights": weights_mark(denoisers(pipe)),
            "settings": settings,
            "rewards": [
                [name, weight] for name, (_, weight) in zip(rewards.names, rewards.parts, strict=True)
            ],
            "pairs": [[pair.prompt, pair.seed] for pair in pairs],
            "heads": len(pool),
            "pack": self.pack,
            "call": {name: value for name, value in call.items() if value is not None},
        }
        log = HeadLog(None if out is None else Path(out).expanduser(), identity, shard)
        painter = Painter(pipe, self.guidance, rewards, pairs, call)
        rounds = Rounds(painter, log, self.pack, shard, stop, self._planned(len(pool), count, len(pairs)))
        shown = not getattr(pipe, "_progress_bar_config", {}).get("disable", False)
        try:
            with rounds.bar(shown if progress is None else progress):
                picks, alone = self._all_rounds(rounds, pool, count)
        except Waiting:
            return None
        except Stopped as reason:
            raise MethodError(f"HeadHunter ended, since {reason.why}; leave the callback out.") from reason
        if rounds.unscored:
            warnings.warn(f"diffusers_ext: {rounds.complaint()}", stacklevel=2)
        return HeadSet(
            picks=tuple(picks),
            model=model or _name(pipe),
            denoisers=facts,
            settings=settings,
            alone=_by_module(pool, alone.means),
            found={
                "search": type(self).__name__,
                **{n: getattr(self, n) for n in ("rounds", "pairs", "prefix")},
                "top_k": count,
                "rewards": identity["rewards"],
                "call": log.identity["call"],
                "plain": alone.plain,
                "pictures": len(rounds.used),
                "evaluations": rounds.evaluations,
                "unscored": len(rounds.unscored),
            },
        )

    def _all_rounds(self, rounds: Rounds, pool: Sequence[Head], count: int) -> tuple[list[Pick], Scores]:
        """Return the picks, in the order in which they were found, and the scores of the first round."""
        picks: list[Pick] = []
        left = self._tried(rounds, pool, count)
        for number in range(1, self.rounds + 1):
            base = tuple(Head(pick.path, pick.head) for pick in picks)
            scores = self._round(rounds, base, left, count, number)
            if number == 1:
                alone = scores
            best = [head for head in ranked(scores.means, left)[:count] if math.isfinite(scores.means[head])]
            picks += [Pick(*head, scores.means[head], number) for head in best]
            left = [head for head in left if head not in best]
        return picks, alone

    def _tried(self, rounds: Rounds, pool: Sequence[Head], count: int) -> list[Head]:
        """Return the heads that are scored at all, in the order of `pool`."""
        return list(pool)

    def _round(
        self, rounds: Rounds, base: tuple[Head, ...], left: Sequence[Head], count: int, number: int
    ) -> Scores:
        """Return the scores of the heads that are left, each together with `base`."""
        return rounds.scores(base, left, range(len(rounds.painter.pairs)), number)

    def _planned(self, heads: int, count: int, pairs: int) -> int:
        """Return the number of pictures of the search, with the plain picture of each pair."""
        return pairs * (1 + sum(heads - r * count for r in range(self.rounds)))

    def _pool(self, sites: Sequence[Site], several: bool) -> list[Head]:
        """Return the heads that are tried, by layer and number; raises `MethodError` if there are none."""
        usable = [s for s in sites if s.kind != "cross"]
        for layer in self.layers or ():
            if not any(_inside(site, layer) for site in usable):
                closest = ", ".join(nearest_names(layer, [s.name for s in usable]))
                raise MethodError(
                    f"HeadHunter found no attention module in {layer!r}; the nearest names are {closest}."
                )
        if self.layers is not None:
            usable = [s for s in usable if any(_inside(s, layer) for layer in self.layers)]
        if not usable:
            raise MethodError(
                "HeadHunter has no head to try; name modules in layers, such as those of dx.summary(pipe)."
            )
        return [Head(s.path if several else s.name, h) for s in usable for h in range(s.heads)]

    def _count(self, heads: int) -> int:
        """Return the number of heads that a round takes; raises `MethodError` if there are not enough."""
        count = self.top_k or max(1, min(USUAL_TOP_K, heads // 4))
        if count * self.rounds > heads:
            most = f"top_k to {heads // self.rounds}" if heads >= self.rounds else f"rounds to {heads}"
            raise MethodError(
                f"HeadHunter takes {count * self.rounds} heads ({count} in a round, rounds={self.rounds}), "
                f"and only {heads} are tried; set {most} or less."
            )
        return count


def _inside(site: Site, layer: str) -> bool:
    return any(f"{path}.".startswith(f"{layer}.") for path in (site.name, site.path))


def _name(pipe: Any) -> str:
    """Return the name that a pipeline was loaded by; of a folder its last part."""
    name = getattr(pipe, "name_or_path", None) or ""
    return Path(name).name if Path(name).is_dir() else name


def _config(scheduler: Any) -> dict[str, Any]:
    """Return the settings of a scheduler, without the notes of diffusers on how it was made."""
    return {name: value for name, value in sorted(scheduler.config.items()) if name[0] != "_"}


def _check_shard(shard: Any, out: Any) -> None:
    fine = isinstance(shard, tuple) and len(shard) == 2 and all(isinstance(x, int) for x in shard)
    if not fine or not 0 <= shard[0] < shard[1]:
        raise MethodError(
            f"a shard is (i, n) with i from 0 to n - 1, got {shard!r}; (0, 2) is the first half."
        )
    if shard[1] > 1 and out is None:
        raise MethodError(f"shard {shard[0]} of {shard[1]} needs a folder for its log, got none; give out.")


def _by_module(pool: Sequence[Head], means: Mapping[Head, float]) -> dict[str, list[float | None]]:
    """Return scores by module, a list over its heads."""
    found: dict[str, list[float | None]] = {}
    for head in pool:
        score = means.get(head, -math.inf)
        found.setdefault(head.path, []).append(score if math.isfinite(score) else None)
    return found
