"""Find the fastest dense attention of a machine, which every time of sparse attention is compared with."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from .stopwatch import Stopwatch, in_turns

ON_GPU = SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION
ON_CPU = SDPBackend.FLASH_ATTENTION, SDPBackend.MATH


def attend(backend: SDPBackend, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Compute dense attention on one back-end, for `q, k, v [B, N, H, D]`; the result is like `q`."""
    with sdpa_kernel(backend):
        return F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2)


def backend_of(name: str) -> SDPBackend:
    """Return a back-end by the name that `fastest_dense` returned."""
    return SDPBackend.__members__[name.upper()]


def fastest_dense(
    q: Tensor, k: Tensor, v: Tensor, watch: Stopwatch, grads: bool = False
) -> tuple[str, Callable[[], object]]:
    """Return name and call of the fastest back-end that takes these tensors.

    From compute capability 9.0 on that is cuDNN where it runs at all, so no time is spent on the others.
    """
    found = []
    for backend in ON_GPU if q.is_cuda else ON_CPU:
        call = partial(_call, backend, q, k, v, grads)
        try:
            call()
        except RuntimeError:  # not on this GPU, or not for this shape
            continue
        if backend == ON_GPU[0] and torch.cuda.get_device_capability(q.device) >= (9, 0):
            return backend.name.lower(), call
        (times,) = in_turns(watch, call, repeats=2)
        found.append((min(times), backend.name, call))
    _, name, call = min(found, key=lambda entry: entry[0])
    return name.lower(), call


def _call(backend: SDPBackend, q: Tensor, k: Tensor, v: Tensor, grads: bool) -> Tensor:
    out = attend(backend, q, k, v)
    if grads:
        torch.autograd.grad(out, (q, k, v), out)
    return out
