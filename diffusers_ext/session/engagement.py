"""Say where and when each method really ran, what attention cost there, and what that brought."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..core import Method, Site, Slot
from .notes import CallNotes, changes
from .sentences import KINDS
from .swap import Swap
from .timing import SiteTimer


@dataclass(frozen=True)
class Engaged:
    """One method, as it ran.

    It acted in `modules` of `of` attention modules of the same `kinds`, and in `calls` of `of_calls` calls of
    the denoiser. `steps` holds the numbers of its steps from 0, by the number of steps of the run. Methods
    that compute attention also have `backends`, each with its number of modules, the reasons of modules that
    `stayed_dense`, and `kept`. That is the share of the pairs that dense attention has, weighted by modules
    and calls in which the method acted; `None` if it is not known.
    """

    name: str
    kinds: tuple[str, ...]
    modules: int
    of: int
    calls: int
    of_calls: int
    steps: dict[int, list[int]]
    sparse: bool
    backends: dict[str, int]
    stayed_dense: dict[str, int]
    kept: float | None


@dataclass(frozen=True)
class AttentionTime:
    """Seconds that attention took in the modules of a session with a sparse method.

    `denoiser` is the time of all calls. `sparse` and `dense` are parts of it: attention calls in which a
    sparse method acted, and all others that were timed. `timed` and `untimed` count modules; those in
    compiled blocks and those that keep the processors of diffusers are not timed. `ideal` is how many times
    faster the denoiser would be than with dense attention, if the time of attention fell with the pairs.
    `estimated` is how many times faster it was. Both go by the dense calls of the same modules, and are
    `None` without them.
    """

    denoiser: float
    sparse: float
    dense: float
    timed: int
    untimed: int
    ideal: float | None
    estimated: float | None

    @property
    def dense_share(self) -> float | None:
        """The share of the denoiser's time that stayed in dense attention, `None` if nothing was timed."""
        return self.dense / self.denoiser if self.timed and self.denoiser else None


def engaged(
    method: Method, selected: Sequence[Site], sites: Sequence[Site], notes: CallNotes, facts: Mapping
) -> Engaged:
    """Return how a method ran.

    `sites` are all attention modules of the denoisers, `selected` those of the method. `facts` holds, by
    site, what cores report of themselves.
    """
    own, sparse = notes.of[id(method)], Slot.CORE in method.slots and method.saves_pairs
    # A session that could not put its processors everywhere has no facts of the rest.
    mine = [site for site in selected if site in facts and changes(method, site)]
    kinds = tuple(sorted({site.kind for site in mine}, key=list(KINDS).index))
    ran = [site for site in mine if own.sites[site]]
    return Engaged(
        name=method.name,
        kinds=kinds,
        modules=len(ran),
        of=sum(site.kind in kinds for site in sites),
        calls=own.calls,
        of_calls=notes.calls,
        steps={steps: sorted(found) for steps, found in own.steps.items()},
        sparse=sparse,
        backends=dict(Counter(facts[s]["backend"] for s in ran if "backend" in facts[s])) if sparse else {},
        stayed_dense=dict(Counter(facts[s].get("why", "") for s in mine if s not in ran)) if sparse else {},
        kept=_kept(ran, own.sites, facts) if sparse else None,
    )


def attention_time(
    swaps: Sequence[Swap], sites: int, notes: CallNotes, facts: Mapping, denoiser: float
) -> AttentionTime | None:
    """Return what attention cost, or `None` for a session that times none; `sites` counts all modules."""
    timers = {
        site: ours.timer
        for swap in swaps
        for site, ours in swap.processors.items()
        if isinstance(ours.timer, SiteTimer) and site not in notes.compiled
    }
    if not timers and not notes.compiled:
        return None
    sparse = sum(timer.sparse.seconds for timer in timers.values())
    usual = ideal = 0.0
    known = bool(timers) and not notes.compiled
    for site, timer in timers.items():
        if timer.sparse_calls:
            known &= timer.dense_calls > 0
            each = timer.dense.seconds / max(timer.dense_calls, 1) * timer.sparse_calls
            usual, ideal = usual + each, ideal + each * facts[site].get("density", 1.0)
    others, known = denoiser - sparse, known and usual > 0
    return AttentionTime(
        denoiser=denoiser,
        sparse=sparse,
        dense=sum(timer.dense.seconds for timer in timers.values()),
        timed=len(timers),
        untimed=sites - len(timers),
        ideal=(others + usual) / (others + ideal) if known else None,
        estimated=(others + usual) / denoiser if known else None,
    )


def _kept(ran: Sequence[Site], calls: Mapping[Site, int], facts: Mapping) -> float | None:
    weights = {site: calls[site] * site.heads * facts[site].get("pairs", 0) for site in ran}
    if not (total := sum(weights.values())):
        return None
    return sum(weight * facts[site]["density"] for site, weight in weights.items()) / total
