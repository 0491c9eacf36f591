"""Count the instructions of the kernels of gradients, without a GPU, by `python -m bench.compiled_gradients`.

Each kernel is compiled for three generations of GPU and the two usual sizes of heads, with the tiles that a
launch chooses. `bench.compiled` does the same for attention itself.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from diffusers_ext.kernels.block_sparse import launch_config
from diffusers_ext.kernels.block_sparse.triton_backward import key_kernel, query_kernel

from .compiled import ARCHS, BLOCKS, HEADS, compile_all
from .ledger import Row
from .sass import Binary, compiled

KERNELS = {"dq": query_kernel, "dkv": key_kernel}
RULES = "none", "disk", "box", "band"
MOST_SPILLED = 8  # bytes a thread, as the tiles of a launch allow
SIDE = 64  # queries, and keys, of the pairs that instructions are given for


def gradient_binary(
    kernel: str, mask: str, arch: int, head_dim: int, dtype: str = "bf16", blocks: tuple[int, int] = BLOCKS
) -> Binary:
    """Compile the kernel of dQ (`dq`), or of dK and dV (`dkv`), with the tiles that a launch chooses."""
    tiles = launch_config.choose(kernel, arch, 4 if dtype == "fp32" else 2, head_dim, blocks)
    constants = dict(
        D=head_dim, BD=tiles.dims, BM=blocks[0], BN=blocks[1], TM=tiles.rows, TN=tiles.columns, MASK=mask,
        PRECISION=tiles.precision,
    )  # fmt: skip
    return compiled(
        KERNELS[kernel], arch, mask, constants, warps=tiles.warps, stages=tiles.stages, dtype=dtype
    )


def _case(arch: int, head_dim: int, kernel: str, mask: str) -> Iterator[Row]:
    tiles = launch_config.choose(kernel, arch, 2, head_dim, BLOCKS)
    binary = gradient_binary(kernel, mask, arch, head_dim)
    # dQ goes through keys, dK and dV go through queries
    still, moving = (tiles.rows, tiles.columns) if kernel == "dq" else (tiles.columns, tiles.rows)
    full, checked = (round(n * tiles.warps * SIDE / still) for n in binary.costs(still, moving, tiles.warps))
    yield {
        "case": name_of(arch, head_dim, kernel, mask),
        "capability": arch / 10,
        "head_dim": head_dim,
        "kernel": kernel,
        "rule": mask,
        "tile": [tiles.rows, tiles.columns],
        "warps": tiles.warps,
        "full": full,
        "partial": checked,
        "registers": binary.registers,
        "programs": binary.programs,
        "spilled_bytes": binary.stack,
        "ok": binary.stack <= MOST_SPILLED and not binary.serialised,
    }


def name_of(arch: int, head_dim: int, kernel: str, mask: str) -> str:
    """Return the name of a case."""
    return f"{arch / 10} {head_dim} {kernel} {mask}"


def cases() -> Mapping[str, Any]:
    """Return what is compiled, by name."""
    wanted = [(a, d, k, mask) for a in ARCHS for d in HEADS for k in KERNELS for mask in RULES]
    return {name_of(*case): partial(_case, *case) for case in wanted}


def main() -> None:
    """Compile everything and write `compiled-gradients.json`."""
    compile_all("compiled-gradients", __doc__, cases())


if __name__ == "__main__":
    main()
