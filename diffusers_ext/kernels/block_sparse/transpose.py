"""Transpose the lists of a block plan: list, for each key block, the query blocks that visit it."""

import torch
from torch import Tensor


def transpose(row_ptr: Tensor, col: Tensor, key_blocks: int) -> tuple[Tensor, Tensor]:
    """Transpose `row_ptr int32 [G, NQ + 1]`, `col int32 [G, nnz]`.

    Returns `col_ptr int32 [G, NK + 1]` and `row` like `col`, whose entries are `query_block << 1 | full`,
    ascending. What is behind the last row of a plan is ignored and stays behind the last column. Sizes depend
    on shapes only, so nothing waits for the GPU.
    """
    NQ = row_ptr.shape[1] - 1
    place = torch.arange(col.shape[1], device=col.device, dtype=torch.int32).expand_as(col)
    row = torch.searchsorted(row_ptr[:, 1:].contiguous(), place.contiguous(), right=True)
    key = torch.where(row < NQ, col >> 1, key_blocks)
    by_key = (key.long() * (NQ + 1) + row).argsort(1)
    edges = torch.arange(key_blocks + 1, device=col.device, dtype=key.dtype).expand(len(col), -1)
    col_ptr = torch.searchsorted(key.gather(1, by_key), edges.contiguous())
    return col_ptr.int(), (row << 1 | (col & 1)).gather(1, by_key).int()
