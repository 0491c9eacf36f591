"""Count the instructions of the compiled kernels, without a GPU, by `python -m bench.compiled`.

Each kernel is compiled for three generations of GPU and the two usual sizes of heads. The table gives the
instructions that a warp issues for 64 keys, which bound the time of a block from below.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import triton
import triton.language as tl

from diffusers_ext.kernels.block_sparse import launch_config
from diffusers_ext.kernels.block_sparse.descriptors import why_pointers
from diffusers_ext.kernels.block_sparse.launch_config import Tiles
from diffusers_ext.kernels.block_sparse.triton_forward import add_keys, forward_kernel, read_tile

from .ledger import RESULTS, Row
from .runner import parser_of, run
from .sass import Binary, compiled

ARCHS = 80, 90, 100  # compute capability times ten
HEADS = 64, 128
BLOCKS = 128, 128  # of plans, in tokens
FORMS = "tables", "computed", "irregular"  # how PARTIAL blocks are checked: `kernels.plan.form`
TILE = 8, 16  # rows and columns of a block on the grid


@triton.jit
def dense_kernel(
    q, k, v, out, q_b, q_s, q_h, k_b, k_s, k_h, v_b, v_s, v_h, o_b, o_s, o_h, H, S_q, S_kv, scale_log2,
    D: tl.constexpr, TM: tl.constexpr, TN: tl.constexpr, TMA: tl.constexpr,
):  # fmt: skip
    """Compute dense attention with the steps of `forward_kernel`, for comparison."""
    b = (tl.program_id(1) // H).to(tl.int64)
    h = (tl.program_id(1) % H).to(tl.int64)
    first = tl.program_id(0) * TM
    keys = k + b * k_b + h * k_h
    values = v + b * v_b + h * v_h
    if TMA:
        keys = tl.make_tensor_descriptor(keys, [S_kv, D], [k_s, 1], [TN, D])
        values = tl.make_tensor_descriptor(values, [S_kv, D], [v_s, 1], [TN, D])
    q_here = read_tile(q + b * q_b + h * q_h, first, q_s, S_q, D, D, TM, False)
    top = tl.full([TM], float("-inf"), tl.float32)
    total = tl.zeros([TM], tl.float32)
    acc = tl.zeros([TM, D], tl.float32)
    for start in tl.range(0, S_kv, TN):
        k_here = read_tile(keys, start, k_s, S_kv, D, D, TN, TMA)
        s = tl.dot(q_here, tl.trans(k_here))
        v_here = read_tile(values, start, v_s, S_kv, D, D, TN, TMA)
        acc, top, total = add_keys(s, v_here, acc, top, total, scale_log2, "tf32x3")
    rows = first + tl.arange(0, TM)[:, None]
    places = rows.to(tl.int64) * o_s + tl.arange(0, D)[None, :]
    result = (acc / total[:, None]).to(out.dtype.element_ty)
    tl.store(out + b * o_b + h * o_h + places, result, rows < S_q)


def tiles_of(form: str, mask: str, arch: int, head_dim: int) -> Tiles:
    """Return the tiles that a launch chooses for a form of the forward kernel, in half precision."""
    by_pointers = why_pointers(arch) or head_dim & (head_dim - 1)
    if form == "tables" or by_pointers:
        kernel = "forward" if form == "tables" else "computed"
        return launch_config.choose(kernel, arch, 2, head_dim, BLOCKS)
    return launch_config.with_descriptors(arch, head_dim, BLOCKS, mask, form == "irregular")


def constants_of(form: str, mask: str, head_dim: int, tiles: Tiles) -> dict[str, Any]:
    """Return the compile-time arguments of a form of the forward kernel."""
    computed = form != "tables" and mask != "none"
    return dict(
        D=head_dim, BD=tiles.dims, BM=BLOCKS[0], BN=BLOCKS[1], TM=tiles.rows, TN=tiles.columns,
        MASK=mask, Q_H=TILE[0], Q_W=TILE[1], K_H=TILE[0], K_W=TILE[1],
        COMPUTED=computed, LOOKED_UP=form != "computed" or mask == "none",
        LSE=True, RECTIFY=False, PRECISION=tiles.precision, TMA=tiles.tma, SPECIAL=tiles.special,
    )  # fmt: skip


def forward_binary(
    form: str, mask: str, arch: int, head_dim: int, tiles: Tiles | None = None, dtype: str = "bf16",
    **flags: Any,
) -> Binary:  # fmt: skip
    """Compile a form of the forward kernel with the tiles that a launch chooses, or with others.

    `flags` replace compile-time arguments.
    """
    tiles = tiles or tiles_of(form, mask, arch, head_dim)
    constants = constants_of(form, mask, head_dim, tiles) | flags
    settings = dict(warps=tiles.warps, stages=tiles.stages, registers=tiles.registers)
    return compiled(forward_kernel, arch, mask, constants, dtype=dtype, **settings)


def dense_binary(arch: int, head_dim: int, tiles: Tiles) -> Binary:
    """Compile the dense kernel with given tiles."""
    constants = dict(D=head_dim, TM=tiles.rows, TN=tiles.columns, TMA=tiles.tma)
    settings = dict(warps=tiles.warps, stages=tiles.stages, registers=tiles.registers)
    return compiled(dense_kernel, arch, "none", constants, **settings)


def _case(arch: int, head_dim: int, mask: str, form: str) -> Iterator[Row]:
    tiles = tiles_of("computed" if form == "dense" else form, mask, arch, head_dim)
    if form == "dense":
        binary = dense_binary(arch, head_dim, tiles)
    else:
        binary = forward_binary(form, mask, arch, head_dim)
    full, checked = binary.costs(tiles.rows, tiles.columns, tiles.warps)
    yield {
        "case": name_of(arch, head_dim, mask, form),
        "capability": arch / 10,
        "head_dim": head_dim,
        "rule": mask,
        "form": form,
        "keys": tiles.columns,
        "full": round(full),
        "partial": round(checked),
        "registers": binary.registers,
        "programs": binary.programs,
        "spilled_bytes": binary.stack,
        "ok": not binary.stack and not binary.serialised,
    }


def name_of(arch: int, head_dim: int, mask: str, form: str) -> str:
    """Return the name of a case."""
    return f"{arch / 10} {head_dim} {mask} {form}"


def cases() -> Mapping[str, Any]:
    """Return what is compiled, by name."""
    kinds = [("none", "dense"), ("none", "computed")]
    kinds += [(mask, form) for mask in ("disk", "box", "band") for form in FORMS]
    wanted = [(arch, head_dim, *kind) for arch in ARCHS for head_dim in HEADS for kind in kinds]
    return {name_of(*case): partial(_case, *case) for case in wanted if _shipped(*case)}


def _shipped(arch: int, head_dim: int, mask: str, form: str) -> bool:
    return launch_config.enough_registers(arch, head_dim, mask, form == "irregular")


def compile_all(bench: str, doc: str | None, found: Mapping[str, Any]) -> None:
    """Compile the cases that the command line asks for, and write `bench`.json."""
    parser = parser_of(doc, RESULTS)
    parser.add_argument("--only", default="", help="part of the names of the cases to compile")
    args = parser.parse_args()
    args.device = "cpu"
    line = "{case:24} {full:6} {partial:8} {registers:10} {programs:9} {spilled_bytes:7}"
    run(bench, found, args, line, path=args.out / f"{bench}.json", triton=triton.__version__)


def main() -> None:
    """Compile everything and write `compiled.json`."""
    compile_all("compiled", __doc__, cases())


if __name__ == "__main__":
    main()
