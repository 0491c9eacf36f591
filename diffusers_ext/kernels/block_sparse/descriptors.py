"""Tensor descriptors, by which Hopper and Blackwell GPUs copy tiles (TMA), and when kernels use pointers."""

import importlib.metadata
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

TESTED = ("3.6", "3.7")  # versions of Triton whose programs with descriptors were compiled and read
ALIGNMENT = 16  # bytes, of addresses and of steps between tokens, heads and batch items


def why_pointers(arch: int | None = None) -> str | None:
    """Return one sentence why kernels read by pointers instead of descriptors, or `None`.

    `arch` is a compute capability (90 for 9.0); without it only the version of Triton counts.
    """
    if importlib.util.find_spec("triton") is None:
        return "Kernels need Triton, which is not installed; the reference runs instead."
    found = importlib.metadata.version("triton")
    if ".".join(found.split(".")[:2]) not in TESTED:
        return (
            f"Tensor descriptors were tested with Triton {' and '.join(TESTED)}, found {found}; kernels read "
            "by pointers, which is slower."
        )
    if arch is not None and not 90 <= arch < 110:
        return (
            f"Tensor descriptors are used on compute capability 9.0 to 10.9, this is {arch / 10}; kernels "
            "read by pointers."
        )
    return None


def fit(*tensors: Tensor) -> bool:
    """Return whether descriptors can address `[B, S, H, D]` tensors: 2 bytes an element, aligned, D 2^n."""
    return all(_fits(x) for x in tensors)


def _fits(x: Tensor) -> bool:
    D = x.shape[-1]
    steps = (n * x.element_size() for n in x.stride()[:3])
    half = x.element_size() == 2 and 16 <= D == 1 << (D.bit_length() - 1)
    return half and x.data_ptr() % ALIGNMENT == 0 and all(step % ALIGNMENT == 0 for step in steps)


@contextmanager
def memory(device: torch.device) -> Iterator[None]:
    """Lend Triton memory for the descriptors of one launch, and put the user's allocator back."""
    from triton import set_allocator
    from triton.runtime import _allocation

    before = _allocation._allocator.get()
    set_allocator(lambda size, alignment, stream: torch.empty(size, dtype=torch.int8, device=device))
    try:
        yield
    finally:
        set_allocator(before)
