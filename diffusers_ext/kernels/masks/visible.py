"""Decide whether single pairs of tokens see each other, by the rule of a plan."""

from collections.abc import Callable, Sequence

from torch import Tensor

from ..geometry import PAD, TEXT
from . import band, disk, lookup, window
from .rule import Kind


def visible(kind: Kind, params: Sequence[int], table: Tensor, q_coord: Tensor, k_coord: Tensor) -> Tensor:
    """Apply a rule to single pairs of packed coordinates, which broadcast; sentinels are included."""
    text = (q_coord == TEXT) | (k_coord == TEXT)
    there = (q_coord != PAD) & (k_coord != PAD)
    if kind == Kind.NONE:
        return there
    return (text | _predicate(kind)(params, table, q_coord, k_coord)) & there


def _predicate(kind: Kind) -> Callable[..., Tensor]:
    return {Kind.DISK: disk.sees, Kind.BOX: window.sees, Kind.BAND: band.sees, Kind.LUT: lookup.sees}[kind]
