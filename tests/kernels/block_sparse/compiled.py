"""Compiles a kernel for a GPU that is not there and reads its cubin: registers, stack, shared memory."""

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

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
FLOATS = ("lse", "dlse", "delta", "gain", "bias")
PLAN = ("row_ptr", "col", "order", "col_ptr", "row", "q_coord", "k_coord", "table")
# a dilation of 1 becomes a constant at launch, as in every launch that has it
PARAMS = {"none": (), "disk": (2,), "box": (2, 2, 2, 1) * 3, "band": (2, 2, 2), "lut": (2, 2)}

LOOKED_UP = dict(
    Q_H=1, Q_W=1, K_H=1, K_W=1, COMPUTED=False, LOOKED_UP=True,
    LSE=True, RECTIFY=False, TMA=False, SPECIAL=False,
)  # fmt: skip


@dataclass(frozen=True)
class Binary:
    registers: int
    stack: int  # bytes of local memory a thread: spilled registers
    shared: int  # bytes a block
    ptx: str


def binary(
    kernel: str, arch: int, head_dim: int, mask: str, dtype: str = "bf16",
    blocks: tuple[int, int] = (128, 128), flags: Mapping[str, bool] | None = None,
) -> Binary:  # fmt: skip
    """`kernel` with the tiles it ships for `arch`, arguments specialised as a launch would."""
    fn = KERNELS[kernel]
    t = launch_config.choose(kernel, arch, 4 if dtype == "fp32" else 2, head_dim, blocks)
    constants = dict(
        D=head_dim, BD=t.dims, BM=blocks[0], BN=blocks[1], TM=t.rows, TN=t.columns, MASK=mask,
        PRECISION=t.precision,
    )  # fmt: skip
    constants |= {} if kernel != "forward" else LOOKED_UP | (flags or {})
    signature, values, attrs = {}, {}, {}
    for i, name in enumerate(fn.arg_names):
        aligned = True
        if name in constants:
            signature[name], values[i,] = "constexpr", constants[name]
            continue
        if name == "rule":
            signature[name] = tuple("constexpr" if x == 1 else "i32" for x in PARAMS[mask])
            values |= {(i, j): 1 for j, x in enumerate(PARAMS[mask]) if x == 1}
            continue
        if name in FLOATS + PLAN:
            signature[name] = "*fp32" if name in FLOATS else "*i32"
        elif name in ("q", "k", "v", "out", "do", "dq", "dk", "dv"):
            signature[name] = f"*{dtype}"
        else:
            signature[name] = "fp32" if name.startswith("scale") else "i32"
            aligned = (
                re.fullmatch(r"(q|k|v|o|do)_[bsh]", name) is not None
            )  # strides of tokens, heads, batches
        if aligned:
            attrs[i,] = [["tt.divisibility", 16]]
    source = ASTSource(fn=fn, signature=signature, constexprs=values, attrs=attrs)
    options = {"num_warps": t.warps, "num_stages": t.stages}
    compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    return _read(compiled)


def _read(compiled) -> Binary:
    folder = Path(os.environ["TRITON_CACHE_DIR"])
    cubin = folder / "kernel.cubin"
    cubin.write_bytes(compiled.asm["cubin"])
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    command = [str(tool), "--dump-resource-usage", str(cubin)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = {key: int(n) for key, n in re.findall(r"(REG|STACK):(\d+)", text)}
    return Binary(found["REG"], found["STACK"], compiled.metadata.shared, compiled.asm["ptx"])
