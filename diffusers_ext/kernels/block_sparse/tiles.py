"""Kernel tiles and launch settings for each generation of GPU.

Chosen by compiling: the widest tiles whose programs keep everything in registers and fit shared memory for
every mask. `tests/kernels/block_sparse/test_compile.py` asserts both for each row of these tables.
"""

from dataclasses import dataclass
from math import gcd

SMALLEST = 16  # tokens on a side of a matrix product


@dataclass(frozen=True, slots=True)
class Tiles:
    """One launch: `rows` queries by `columns` keys a tile, `dims` padded head size; fp32 products in
    `precision`.
    """

    rows: int
    columns: int
    dims: int
    warps: int
    stages: int
    precision: str = "tf32x3"


# kernel, padded head size -> rows, columns, warps, stages; sizes not listed take the next larger one
_HALF = {
    ("forward", 64): (128, 64, 8, 3),
    ("forward", 128): (128, 32, 8, 3),
    ("dq", 32): (64, 64, 4, 2),
    ("dq", 64): (64, 32, 4, 2),
    ("dq", 128): (64, 64, 8, 2),
    ("dkv", 64): (64, 32, 4, 2),
    ("dkv", 128): (32, 64, 8, 2),
}
_HALF_DATACENTER = {  # Hopper and Blackwell with 227 KB of shared memory, where operands stay there
    ("forward", 128): (128, 64, 8, 3),
    ("dq", 64): (64, 64, 8, 2),
    ("dq", 128): (64, 32, 8, 2),
    ("dkv", 128): (64, 64, 8, 2),
}
_SINGLE = {
    ("forward", 128): (16, 32, 4, 2),
    ("dq", 128): (16, 32, 4, 1),
    ("dkv", 64): (32, 16, 8, 1),
    ("dkv", 128): (16, 16, 8, 1),
}


def choose(kernel: str, arch: int, itemsize: int, head_dim: int, blocks: tuple[int, int]) -> Tiles:
    """Tiles of `kernel` (forward, dq, dkv) on compute capability `arch` (90 for 9.0) for elements of
    `itemsize` bytes.

    They divide the `blocks` (BM, BN) of the plan. Raises `ValueError` for blocks that are no multiples of 16
    and heads larger than 128.
    """
    if blocks[0] % SMALLEST or blocks[1] % SMALLEST:
        raise ValueError(
            f"Blocks for Triton kernels must be multiples of {SMALLEST} tokens, got {blocks}; plan with "
            "64 or 128."
        )
    if not 1 <= head_dim <= 128:
        raise ValueError(
            f"The Triton kernels take heads of 1 to 128 dims, got {head_dim}; use the reference."
        )
    dims = max(SMALLEST, 1 << (head_dim - 1).bit_length())
    half = _HALF_DATACENTER if 90 <= arch < 110 else _HALF
    table = _SINGLE if itemsize == 4 else half
    rows, columns, warps, stages = table[kernel, min(d for k, d in table if k == kernel and d >= dims)]
    return Tiles(gcd(rows, blocks[0]), gcd(columns, blocks[1]), dims, warps, stages)
