"""Which back-end can run a block-sparse problem, which one does, and why."""

import os
import shutil
import sys
from dataclasses import dataclass
from importlib.util import find_spec

import torch

from .block_sparse import tiles

BACKENDS = ("triton", "reference")  # what `auto` tries, fastest first
ON_REQUEST = ("flex",)  # compiles for seconds at each new size, hence never by itself


@dataclass(frozen=True, slots=True)
class Problem:
    """What a back-end has to cope with; `blocks` are those of queries and keys, in tokens."""

    device: torch.device
    dtype: torch.dtype
    head_dim: int
    blocks: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Choice:
    """A back-end and the reason for it."""

    name: str
    why: str


def interpreted() -> bool:
    """Whether Triton kernels run in its interpreter, also on CPU tensors."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def why_not(backend: str, problem: Problem) -> str | None:
    """`None` where the back-end can run, else one sentence."""
    if backend not in (*BACKENDS, *ON_REQUEST):
        return f"There is no back-end {backend!r}; use {', '.join((*BACKENDS, *ON_REQUEST))}."
    if backend == "reference":
        return None
    if backend == "flex":
        return _why_no_flex(problem)
    if find_spec("triton") is None:
        return "Triton is not installed; it comes with CUDA builds of torch on Linux."
    if problem.device.type != "cuda" and not interpreted():
        return (
            f"Triton kernels need a CUDA device, the tensors are on {problem.device.type}; use the reference."
        )
    if interpreted() and problem.dtype == torch.bfloat16:
        return "Triton's interpreter computes wrong bfloat16 products; use float16 or float32 there."
    on_gpu = problem.device.type == "cuda"
    major, minor = torch.cuda.get_device_capability(problem.device) if on_gpu else (8, 0)
    return tiles.why_not(10 * major + minor, problem.dtype.itemsize, problem.head_dim, problem.blocks)


def _why_no_flex(problem: Problem) -> str | None:
    if problem.device.type == "cpu":
        found = torch.backends.cpu.get_cpu_capability()  # ATEN_CPU_CAPABILITY lowers it
        if sys.platform == "darwin" or not found.startswith("AVX"):
            return (
                f"FlexAttention needs AVX2 on a CPU and does not run on macOS, torch finds {found} on "
                f"{sys.platform}; use the reference."
            )
        if shutil.which("g++") is None:
            return "FlexAttention compiles C++ on a CPU, and there is no g++ on the path; use the reference."
    if problem.dtype not in (torch.float16, torch.bfloat16, torch.float32):
        return (
            f"FlexAttention computes in float16, bfloat16 and float32, got {problem.dtype}; cast the tensors."
        )
    return None


def choose(problem: Problem, wanted: str = "auto") -> Choice:
    """The first back-end that can run, or the wanted one; raises `ValueError` where that cannot."""
    if wanted != "auto":
        if (why := why_not(wanted, problem)) is not None:
            raise ValueError(why)
        return Choice(wanted, "asked for")
    refusals = []
    for backend in BACKENDS:
        if (why := why_not(backend, problem)) is None:
            return Choice(backend, refusals[-1].rstrip(".") if refusals else "fastest that can run")
        refusals.append(why)
    raise ValueError(refusals[-1])
