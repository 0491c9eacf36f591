"""Any mask of a few thousand tokens, looked up: the packed coordinates are row and column numbers."""

from collections.abc import Sequence

from torch import Tensor


def sees(params: Sequence[int], table: Tensor, q_coord: Tensor, k_coord: Tensor) -> Tensor:
    """`params = (queries, keys)`, `table [queries, keys]` is 0 where a pair is hidden."""
    return table.view(*params)[q_coord.clamp(min=0).long(), k_coord.clamp(min=0).long()] != 0
