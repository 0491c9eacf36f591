"""Find attention modules and heads by the names and patterns that a user writes."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase
from typing import Any

from ..core import Site, nearest_names
from ..errors import MethodError, UnsupportedError
from ..families import family_of
from ..families.denoisers import denoisers

KINDS = {"self": "self-attention", "cross": "cross-attention", "joint": "joint attention"}


def sites_of(pipe: Any) -> list[Site]:
    """Return all attention modules of a pipeline in model order; raises `UnsupportedError` without any."""
    return [s for name, model in denoisers(pipe).items() for s in family_of(model).sites(model, name)]


def matching(sites: Sequence[Site], layers: str | Sequence[str] | None) -> list[Site]:
    """Return the sites that `layers` names, in model order; `None` means all.

    `layers` has names of modules, of blocks that hold them, or patterns with `*`, as text with commas or as a
    list. A name may begin with that of the denoiser. Raises `MethodError` for an empty list and for a name
    that matches none; it names the nearest.
    """
    if layers is None:
        return list(sites)
    given = layers.split(",") if isinstance(layers, str) else list(layers)
    wanted = [name.strip() for name in given if isinstance(name, str)]
    if not any(wanted) or len(wanted) < len(given):
        raise MethodError(
            f"layers are names of attention modules or patterns such as 'mid_block*', got {layers!r}; leave "
            "layers out to have all."
        )
    picked: set[Site] = set()
    for name in filter(None, wanted):
        found = [site for site in sites if _named(site, name)]
        if not found:
            closest = ", ".join(nearest_names(name.strip("*"), _candidates(sites), 3))
            raise MethodError(f"no attention module is named {name!r}; the nearest names are {closest}.")
        picked.update(found)
    return [site for site in sites if site in picked]


def usable(sites: Sequence[Site], kinds: Collection[str], why: str, pipe: Any) -> list[Site]:
    """Return the sites of some kinds out of those that a user named.

    Raises `MethodError` if there are none; `why` says what is done with modules of these kinds. Raises
    `UnsupportedError` if the model has none.
    """
    if found := [site for site in sites if site.kind in kinds]:
        return found
    named = " or ".join(KINDS[kind] for kind in kinds)
    others = [site.name for site in sites_of(pipe) if site.kind in kinds]
    if not others:
        raise UnsupportedError(
            f"{why} needs {named}, which {type(pipe).__name__} does not have; use a model that has it."
        )
    closest = ", ".join(nearest_names(sites[0].name, others, 3))
    raise MethodError(
        f"{why} needs {named}, but {sites[0].name} is {KINDS[sites[0].kind]}; name others, as {closest}."
    )


def head_numbers(sites: Sequence[Site], heads: Sequence[int] | None) -> list[tuple[Site, int]]:
    """Return each site with each of its heads, or with those in `heads` that it has.

    Raises `MethodError` for an empty list, and for a head that none of the sites has.
    """
    most = max(site.heads for site in sites)
    if heads is not None:
        if not len(heads):
            raise MethodError("heads are numbers of attention heads, got none; leave heads out to have all.")
        if bad := [h for h in heads if isinstance(h, bool) or not isinstance(h, int) or not 0 <= h < most]:
            raise MethodError(
                f"these modules have heads 0 to {most - 1}, got {bad[0]!r}; the nearest is "
                f"{min(max(bad[0], 0), most - 1) if isinstance(bad[0], int) else 0}."
            )
    wanted = None if heads is None else set(heads)
    return [(site, head) for site in sites for head in range(site.heads) if wanted is None or head in wanted]


def _candidates(sites: Sequence[Site]) -> list[str]:
    """Return the names of sites and of the blocks around them, that of a denoiser left out."""
    found: dict[str, None] = {}
    for site in sites:
        parts = site.name.split(".")
        found |= dict.fromkeys(".".join(parts[:end]) for end in range(1, len(parts) + 1))
    return [name for name in found if not name.rpartition(".")[2].isdigit() or name.count(".") == 1]


def _named(site: Site, name: str) -> bool:
    """Return whether a name is that of a site or of a block around it, or a pattern of its name."""
    return any(fnmatchcase(own, name) or own.startswith(f"{name}.") for own in (site.name, site.path))
