"""Look up any mask of a few thousand tokens; the packed coordinates are row and column numbers."""

from collections.abc import Sequence

from torch import Tensor


def sees(params: Sequence[int], table: Tensor, q_coord: Tensor, k_coord: Tensor) -> Tensor:
    """Return whether pairs see each other.

    `params = (queries, keys)`; `table [queries, keys]` is 0 for hidden pairs.
    """
    return table.view(*params)[q_coord.clamp(min=0).long(), k_coord.clamp(min=0).long()] != 0
