"""Name the forms of the forward kernel that are timed against each other."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor

from diffusers_ext.kernels.block_sparse import api
from diffusers_ext.kernels.block_sparse.capabilities import interpreted
from diffusers_ext.kernels.block_sparse.launch import LaunchArgs, forward_options, options
from diffusers_ext.kernels.block_sparse.launch_config import Tiles, specialised
from diffusers_ext.kernels.plan.form import LOOKED_UP
from diffusers_ext.kernels.plan.plan import BlockPlan

Attention = Callable[[Tensor, Tensor, Tensor, BlockPlan], Tensor]
SHIPPED = "as shipped"  # what sessions run
LOOKED = "looked up"  # the coordinates of single tokens are read, as for plans whose blocks are no boxes


@dataclass(frozen=True)
class Change:
    """A change of launch settings that may pay, from those that were chosen and `q` and blocks of the plan.

    `rule` and `channels` say for which plans and heads of `rates.py` it is meant.
    """

    tiles: Callable[[Tiles, Tensor, tuple[int, int]], Tiles]
    rule: str = "disk"
    channels: int = 128


CHANGES: Mapping[str, Change] = {
    "pointers": Change(lambda tiles, q, blocks: options("computed", q, blocks)),
    "64 keys": Change(lambda tiles, q, blocks: replace(tiles, columns=min(64, tiles.columns))),
    "3 stages": Change(lambda tiles, q, blocks: replace(tiles, stages=3)),
    "all registers": Change(lambda tiles, q, blocks: replace(tiles, registers=None), channels=64),
    "special warp": Change(lambda tiles, q, blocks: specialised(tiles), rule="none"),
}


def shipped(q: Tensor, k: Tensor, v: Tensor, plan: BlockPlan) -> Tensor:
    """Run attention over a plan as sessions do; without CUDA or interpreter that is the reference."""
    return api.attention(q, k, v, plan)[0]


def looked_up(q: Tensor, k: Tensor, v: Tensor, plan: BlockPlan) -> Tensor:
    """Run the kernel in the form that suits any plan."""
    return shipped(q, k, v, replace(plan, form=LOOKED_UP))


def changed(change: Change, q: Tensor, k: Tensor, v: Tensor, plan: BlockPlan) -> Tensor:
    """Run the Triton kernel with other launch settings."""
    from diffusers_ext.kernels.block_sparse.triton_forward import forward

    blocks, mask = (plan.block_q, plan.block_k), plan.kind.name.lower()
    tensors = plan.row_ptr, plan.col, plan.order
    coords = plan.q_coord, plan.k_coord
    launch = LaunchArgs(*tensors, blocks, mask, plan.params, *coords, plan.table, plan.form)
    tiles, form = forward_options(q, k, v, launch)
    launch, tiles = replace(launch, form=form), change.tiles(tiles, q, blocks)
    return forward(q, k, v, launch, scale=q.shape[-1] ** -0.5, with_lse=False, tiles=tiles)[0]


def flex(plan: BlockPlan) -> Attention:
    """Return FlexAttention with a plan compiled in, which takes seconds."""
    from diffusers_ext.kernels.block_sparse.flex import prepare

    compiled = prepare(plan)
    return lambda q, k, v, plan: compiled(q, k, v, plan)[0]


def kernel_forms(device: str) -> dict[str, Attention]:
    """Return the forms of the kernel that sessions choose from, by name, the usual one first."""
    return {SHIPPED: shipped} | ({LOOKED: looked_up} if on_triton(device) else {})


def forms(device: str) -> dict[str, Attention]:
    """Return all forms that a device can run, those of sessions first."""
    changes = {name: partial(changed, change) for name, change in CHANGES.items()}
    return kernel_forms(device) | (changes if on_triton(device) else {})


def on_triton(device: str) -> bool:
    """Return whether kernels run on a device, and not the reference."""
    return device != "cpu" or interpreted()
