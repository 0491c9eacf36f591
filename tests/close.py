"""How close two results must be where they need not have the same bits.

Bits are compared, by `torch.equal`, only where the same operator sees the same shapes in the same process, on
the same number of threads. Elsewhere a matrix library may add up in another order: in a batch of another
size, in blocks, on a CPU with other instructions, with more threads or in another process.
"""

from functools import partial

import torch
from torch import Tensor

# Allowed error in roundings of the dtype, relative to the largest value that is wanted.
SUMS = 64  # one operator, or a few in a row, whose sums come in another order
MODEL = 512  # whole denoisers and runs of some steps, where roundings add up from layer to layer


def close(got: Tensor, wanted: Tensor, level: int = SUMS, *, dtype: torch.dtype | None = None) -> None:
    """Asserts that tensors of one shape differ by at most `level` roundings of `dtype`, by default that of
    `got`.
    """
    assert got.shape == wanted.shape, f"shapes differ: {tuple(got.shape)} and {tuple(wanted.shape)}"
    limit = level * torch.finfo(dtype or got.dtype).eps * wanted.double().abs().max()
    error = (got.double() - wanted.double()).abs().max()
    assert error <= limit, f"off by {error:.3g}, allowed are {limit:.3g} ({level} roundings)"


alike = partial(close, level=MODEL)  # for what whole models make


def far_apart(one: Tensor, two: Tensor) -> bool:
    """Return whether tensors differ by ten times what rounding may do, or more."""
    return bool((one - two).abs().max() > 10 * MODEL * torch.finfo(one.dtype).eps * two.abs().max())
