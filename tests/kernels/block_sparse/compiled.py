"""Compiles the kernels with the tiles that they ship, for GPUs that are not there."""

from collections.abc import Mapping

from bench.sass import Binary, compiled
from diffusers_ext.kernels.block_sparse import launch_config
from diffusers_ext.kernels.block_sparse.triton_backward import key_kernel, query_kernel
from diffusers_ext.kernels.block_sparse.triton_forward import forward_kernel

KERNELS = {"forward": forward_kernel, "dq": query_kernel, "dkv": key_kernel}
SHARED_LIMIT = {
    80: 166_912,
    86: 101_376,
    89: 101_376,
    90: 232_448,
    100: 232_448,
    120: 101_376,
}  # bytes a block
LOOKED_UP = dict(
    Q_H=1, Q_W=1, K_H=1, K_W=1, COMPUTED=False, LOOKED_UP=True,
    LSE=True, RECTIFY=False, TMA=False, SPECIAL=False,
)  # fmt: skip


def binary(
    kernel: str, arch: int, head_dim: int, mask: str, dtype: str = "bf16",
    blocks: tuple[int, int] = (128, 128), flags: Mapping[str, bool] | None = None,
) -> Binary:  # fmt: skip
    """`kernel` with tables of coordinates and the tiles it ships for `arch`, specialised as in a launch."""
    t = launch_config.choose(kernel, arch, 4 if dtype == "fp32" else 2, head_dim, blocks)
    constants = dict(
        D=head_dim, BD=t.dims, BM=blocks[0], BN=blocks[1], TM=t.rows, TN=t.columns, MASK=mask,
        PRECISION=t.precision,
    )  # fmt: skip
    constants |= {} if kernel != "forward" else LOOKED_UP | (flags or {})
    return compiled(KERNELS[kernel], arch, mask, constants, warps=t.warps, stages=t.stages, dtype=dtype)
