"""Prepare the launch of a Triton kernel: the plan as raw tensors, and tiles that fit the GPU."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from ..plan.form import LOOKED_UP, BlockForm
from . import descriptors
from .capabilities import interpreted, why_not_interpreted
from .launch_config import Tiles, choose, enough_registers, with_descriptors

LOG2_E = 1.4426950408889634


@dataclass(frozen=True, slots=True)
class LaunchArgs:
    """A block plan as the kernels read it.

    `row_ptr int32 [G, NQ + 1]`, `col int32 [G, nnz]` with entries `key_block << 1 | full`, `order int32 [NQ]`
    in which query blocks start; G is 1 (shared), H or B * H. `blocks` is (BM, BN) in tokens. `mask` is the
    lower-case name of a `masks.rule.Kind`; `params` and `table int32` are those of its rule. `q_coord int32
    [S_q]`, `k_coord int32 [S_kv]` are packed coordinates, or `[B, S_kv]` if each row of the batch hides its
    own keys. `form` says how PARTIAL blocks may be checked.
    """

    row_ptr: Tensor
    col: Tensor
    order: Tensor
    blocks: tuple[int, int]
    mask: str
    params: tuple[int, ...]
    q_coord: Tensor
    k_coord: Tensor
    table: Tensor
    form: BlockForm = LOOKED_UP

    @property
    def kernel_params(self) -> tuple[int, ...]:
        """The argument `rule` of the kernels: the parameters, and for a band the length of its table as well.

        (No argument may be called `params`: Triton's generated launcher has a variable of that name.)
        """
        return (*self.params, self.table.numel()) if self.mask == "band" else self.params

    @property
    def coord_stride(self) -> int:
        """The step in `k_coord` from one batch item to the next."""
        return 0 if self.k_coord.ndim == 1 else self.k_coord.stride(0)

    def plan_strides(self, B: int, H: int) -> tuple[int, int]:
        """Return the steps in plan number from one batch item to the next and from one head to the next."""
        G = self.row_ptr.shape[0]
        if G == 1:
            return 0, 0
        return (H, 1) if G == B * H else (0, 1)


@contextmanager
def launching(q: Tensor, tiles: Tiles) -> Iterator[None]:
    """Make the GPU of `q` the current one, on which Triton launches, with memory for descriptors."""
    scratch = tiles.tma and q.is_cuda
    with (
        torch.cuda.device(q.device) if q.is_cuda else nullcontext(),
        descriptors.memory(q.device) if scratch else nullcontext(),
    ):
        yield


def options(kind: str, q: Tensor, blocks: tuple[int, int]) -> Tiles:
    """Choose tiles for the GPU of `q [B, S, H, D]`.

    Raises `ValueError` as `choose` does, and for bf16 in the interpreter.
    """
    if not interpreted():
        return choose(kind, _arch(q), q.dtype.itemsize, q.shape[-1], blocks)
    if why := why_not_interpreted(q.dtype):
        raise ValueError(why)
    itemsize = 2 if q.dtype == torch.float32 else q.dtype.itemsize  # large tiles: each costs the same there
    return choose(kind, 80, itemsize, q.shape[-1], blocks)


def forward_options(q: Tensor, k: Tensor, v: Tensor, launch: LaunchArgs) -> tuple[Tiles, BlockForm]:
    """Choose tiles and form of the forward kernel; descriptors where GPU, Triton and tensors allow them."""
    form, rule = launch.form, (launch.mask, launch.form.irregular)
    if not interpreted() and not enough_registers(_arch(q), q.shape[-1], *rule):
        form = LOOKED_UP
    computed = form.computed or launch.mask == "none"
    tiles = options("computed" if computed else "forward", q, launch.blocks)
    if computed and not interpreted() and not descriptors.why_pointers(_arch(q)) and descriptors.fit(k, v):
        tiles = with_descriptors(_arch(q), q.shape[-1], launch.blocks, *rule)
    return tiles, form


def _arch(q: Tensor) -> int:
    major, minor = torch.cuda.get_device_capability(q.device)
    return 10 * major + minor
