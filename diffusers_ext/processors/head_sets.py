"""Read which heads of which modules a mapping names; a head has the common strength or one of its own.

Heads map module paths to `None` (all heads), to head numbers, or to head number -> strength.
"""

import math
import warnings
from collections.abc import Mapping, Sequence

from ..core import Site
from ..errors import MethodError

Heads = Mapping[str, Sequence[int] | Mapping[int, float] | None]


def own_strengths(head_sets: Sequence[Heads]) -> list[float]:
    """Return the strengths of the heads that set their own, over all head sets."""
    return [float(u) for s in head_sets for h in s.values() if isinstance(h, Mapping) for u in h.values()]


def shared(head_sets: Sequence[Heads]) -> bool:
    """Return whether any head takes the common strength; without head sets every head does."""
    return not head_sets or any(not isinstance(h, Mapping) for s in head_sets for h in s.values())


def size(head_set: Heads) -> float:
    """Return the number of heads, infinite if a module is named with all of its heads."""
    return sum(math.inf if heads is None else len(heads) for heads in head_set.values())


def strengths(head_set: Heads, site: Site, strength: float) -> dict[int, float]:
    """Map head numbers of a site to strengths; `strength` is for heads without one of their own."""
    found: dict[int, float] = {}
    for path in (site.name, site.path):
        if path in head_set:
            heads = head_set[path]
            named = range(site.heads) if heads is None else heads
            own = heads if isinstance(heads, Mapping) else dict.fromkeys(named, strength)
            found |= {int(head): value for head, value in own.items()}
    return found


def check(head_sets: Sequence[Heads]) -> None:
    """Raise `MethodError` for a module with no heads."""
    for head_set in head_sets:
        for path, heads in head_set.items():
            if heads is not None and not heads:
                raise MethodError(
                    f"SoftPAG got no head for {path}, which would change nothing; None means all."
                )


def check_heads(site: Site, heads: Sequence[int] | Mapping[int, float] | None) -> None:
    """Raise `MethodError` for heads that a site does not have; warn of those that are named twice."""
    if heads is None:
        return
    numbers = [int(h) for h in heads]
    bad = [h for h in numbers if not 0 <= h < site.heads]
    if bad:
        closest = sorted(range(site.heads), key=lambda h: abs(h - bad[0]))[:5]
        raise MethodError(
            f"SoftPAG: {site.name} has heads 0 to {site.heads - 1}, got {bad[0]}; the nearest are "
            f"{sorted(closest)}."
        )
    if len(set(numbers)) < len(numbers):
        warnings.warn(
            f"SoftPAG: heads of {site.name} are named more than once; each counts once.", stacklevel=3
        )
