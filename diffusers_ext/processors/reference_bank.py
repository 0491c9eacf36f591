"""Keep keys and values of references, so that one run of them serves many scenes."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from ..errors import MethodError

GIB = 1 << 30
Kept = tuple[Tensor, Tensor, Tensor | None]  # keys and values [B, L, H, D], and a mask of the call, if any


@dataclass
class ReferenceBank:
    """Keys and values of references by module, place in the run and subject.

    A session either writes it, in a run of the N references alone, or reads it in runs of one scene each.
    `numbers` are those of its subjects, in the order in which the method of the session has them. Runs must
    have the same schedule. With `device` the tensors are kept there, such as `"cpu"`. A run of the references
    makes `calls` calls of the denoiser in all, and at most `limit_gib` may be kept.
    """

    device: str | None = None
    calls: int = 1
    limit_gib: float = float("inf")
    numbers: Sequence[int] = ()
    writing: bool = True
    kept: dict[Hashable, Kept] = field(default_factory=dict)

    def reader(self, numbers: Sequence[int]) -> "ReferenceBank":
        """Return a view of the same tensors for a scene with some of the subjects."""
        return replace(self, numbers=tuple(numbers), writing=False)

    def check(self, bytes_per_call: int, calls: int) -> None:
        """Raise `MethodError` if a run that keeps something in `calls` calls would pass the limit."""
        total = bytes_per_call * calls / GIB
        if total > self.limit_gib:
            raise MethodError(
                f"the references of this story need {total:.2g} GiB for {calls} calls of the denoiser, "
                f"and cache_limit_gib allows {self.limit_gib:g}; raise it, keep them in main memory with "
                "cache='cpu', or draw them again for each scene with cache='off'."
            )

    def put(
        self, site: str, place: Hashable, number: int, k: Tensor, v: Tensor, mask: Tensor | None = None
    ) -> None:
        """Keep what subject `number` of the method has at a module; `place` counts calls of the denoiser."""
        kept = [None if x is None else x.to(self.device or x.device) for x in (k, v, mask)]
        self.kept[site, place, self.numbers[number]] = tuple(kept)

    def has(self, site: str, place: Hashable) -> bool:
        """Return whether something of every subject is kept at a module."""
        return all((site, place, number) in self.kept for number in self.numbers)

    def get(self, site: str, place: Hashable, number: int, like: Tensor) -> Kept:
        """Return what subject `number` of the method has, on the device of `like`."""
        kept = self.kept[site, place, self.numbers[number]]
        return tuple(None if x is None else x.to(like.device) for x in kept)

    @property
    def gib(self) -> float:
        """The size of all tensors in GiB."""
        tensors = [x for kept in self.kept.values() for x in kept if x is not None]
        return sum(x.numel() * x.element_size() for x in tensors) / GIB
