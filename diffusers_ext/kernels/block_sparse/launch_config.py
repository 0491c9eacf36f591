"""Kernel tiles and launch settings for each generation of GPU.

They were chosen by compiling. They are the widest tiles whose programs fit shared memory. With blocks of 64
tokens or more, the rules of all methods keep everything in registers, or all but 8 bytes a thread (24 for one
gradient in float32). Blocks of 32 cut tiles down, and then up to 16 bytes go to memory. On Hopper no matrix
product of a tile that is not cut waits for the one before. Masks that are looked up pair by pair (`lut`,
which no method has) take more. `computed` is the forward kernel where it needs no table of coordinates
(`kernels.plan.form`). `tests/kernels/block_sparse/test_compile.py` asserts it for each row of these tables.
"""

from dataclasses import dataclass, replace
from math import gcd

SMALLEST = 16  # tokens on a side of a matrix product


@dataclass(frozen=True, slots=True)
class Tiles:
    """The settings of one launch: tiles of `rows` queries by `columns` keys.

    `dims` is the padded head size; fp32 products are computed in `precision`. `tma` reads tiles by
    descriptors, `registers` limits those of a thread, and `special` gives reading a warp of its own.
    """

    rows: int
    columns: int
    dims: int
    warps: int
    stages: int
    precision: str = "tf32x3"
    tma: bool = False
    registers: int | None = None
    special: bool = False


# kernel, padded head size -> rows, columns, warps, stages; sizes not listed take the next larger one
_HALF = {
    ("forward", 64): (128, 64, 8, 3),
    ("forward", 128): (128, 32, 8, 3),
    ("computed", 64): (128, 64, 8, 3),
    ("computed", 128): (128, 64, 8, 2),
    ("dq", 32): (64, 64, 4, 2),
    ("dq", 64): (64, 32, 4, 2),
    ("dq", 128): (64, 64, 8, 2),
    ("dkv", 32): (32, 64, 8, 2),
    ("dkv", 64): (64, 32, 8, 2),
    ("dkv", 128): (32, 64, 8, 2),
}
_HALF_DATACENTER = {  # Hopper and Blackwell with 227 KB of shared memory, where operands stay there
    ("forward", 128): (128, 64, 8, 3),
    ("computed", 128): (128, 64, 8, 3),
    ("dq", 64): (128, 64, 8, 2),
    ("dq", 128): (128, 64, 8, 2),
    ("dkv", 32): (32, 64, 8, 2),
    ("dkv", 64): (32, 64, 4, 2),
    ("dkv", 128): (32, 64, 4, 2),
}
_HALF_BLACKWELL = {("dq", 128): (64, 64, 4, 2)}
_DESCRIPTORS = {64: (128, 64, 8, 3), 128: (128, 128, 8, 2)}  # padded head size -> as above, `computed`
_SINGLE = {
    ("forward", 64): (32, 32, 8, 2),
    ("forward", 128): (16, 32, 4, 2),
    ("dq", 32): (16, 32, 4, 2),
    ("dq", 128): (16, 32, 4, 1),
    ("dkv", 32): (32, 16, 8, 1),
    ("dkv", 64): (32, 16, 8, 2),
    ("dkv", 128): (16, 16, 8, 1),
}


def why_not(arch: int, itemsize: int, head_dim: int, blocks: tuple[int, int]) -> str | None:
    """Return one sentence why the kernels cannot run, or `None`; arguments are those of `choose`."""
    if arch < 80:
        return f"The Triton kernels need compute capability 8.0, got {arch / 10}; use the reference."
    if itemsize not in (2, 4):
        return (
            "The Triton kernels take float16, bfloat16 and float32, got elements of "
            f"{8 * itemsize} bits; cast the tensors or use the reference."
        )
    if not 1 <= head_dim <= 128:
        return f"The Triton kernels take heads of 1 to 128 dims, got {head_dim}; use the reference."
    if blocks[0] % SMALLEST or blocks[1] % SMALLEST:
        return (
            f"The Triton kernels need blocks in multiples of {SMALLEST} tokens, got {blocks}; plan with 128."
        )
    return None


def choose(kernel: str, arch: int, itemsize: int, head_dim: int, blocks: tuple[int, int]) -> Tiles:
    """Choose the tiles of `kernel` (forward, computed, dq, dkv) on compute capability `arch` (90 for 9.0).

    They divide the `blocks` (BM, BN) of the plan, in tokens; elements have `itemsize` bytes. Raises
    `ValueError` with the sentence of `why_not`.
    """
    if problem := why_not(arch, itemsize, head_dim, blocks):
        raise ValueError(problem)
    half = _HALF | (_HALF_DATACENTER if 90 <= arch < 110 else {})
    half |= _HALF_BLACKWELL if 100 <= arch < 110 else {}
    table = _SINGLE if itemsize == 4 else half
    if itemsize == 4 and kernel == "computed":
        kernel = "forward"
    dims = max(SMALLEST, 1 << (head_dim - 1).bit_length())
    return _divide(table[kernel, min(d for k, d in table if k == kernel and d >= dims)], blocks, dims)


def with_descriptors(arch: int, head_dim: int, blocks: tuple[int, int], mask: str, irregular: bool) -> Tiles:
    """Choose the tiles of the `computed` kernel that reads by descriptors, for 2-byte elements.

    A band takes more registers than other rules, above all an irregular one. Where the rule leaves enough,
    heads of 64 have two programs on a multiprocessor of Hopper.
    """
    dims = max(SMALLEST, 1 << (head_dim - 1).bit_length())
    rows, columns, warps, stages = _DESCRIPTORS[min(d for d in _DESCRIPTORS if d >= dims)]
    if mask == "band" and arch >= 100:
        columns = 64
    tiles = _divide((rows, columns, warps, stages), blocks, dims)
    share = dims <= 64 and arch < 100 and not (mask == "band" and irregular)
    return replace(tiles, tma=True, registers=128 if share else None)


def enough_registers(arch: int, head_dim: int, mask: str, irregular: bool) -> bool:
    """Return whether the `computed` kernel keeps everything in registers; only Blackwell's tiles do not."""
    return not (100 <= arch < 110 and head_dim > 64 and mask == "band" and irregular)


def _divide(settings: tuple[int, int, int, int], blocks: tuple[int, int], dims: int) -> Tiles:
    rows, columns, warps, stages = settings
    return Tiles(gcd(rows, blocks[0]), gcd(columns, blocks[1]), dims, warps, stages)


def specialised(tiles: Tiles) -> Tiles:
    """Give reading a warp of its own, on Hopper and for plans of FULL blocks; no GPU has run it yet."""
    return replace(tiles, warps=4, stages=2, registers=None, special=True)
