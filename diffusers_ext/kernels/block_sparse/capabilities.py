"""Choose a back-end for a block-sparse request: which can run, which one does and why, and when it pays."""

import importlib.util
import os
import shutil
import sys
from dataclasses import dataclass

import torch

from . import launch_config

BACKENDS = ("triton", "reference")  # tried by `auto`, fastest first
ON_REQUEST = ("flex",)  # compiles for seconds at each new size; `auto` takes it for long runs on a CPU

INTERPRET = "1", "true", "yes", "on", "y"  # values of TRITON_INTERPRET that Triton takes for true


@dataclass(frozen=True, slots=True)
class Request:
    """A request to a back-end; `blocks` are the sizes of blocks of queries and of keys, in tokens."""

    device: torch.device
    dtype: torch.dtype
    head_dim: int
    blocks: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Choice:
    """A back-end and the reason for it; with `spare`, the reference takes over where it fails."""

    name: str
    why: str
    spare: bool = False


def interpreted() -> bool:
    """Return whether Triton kernels run in its interpreter, also on CPU tensors."""
    return os.environ.get("TRITON_INTERPRET", "").lower() in INTERPRET


def why_no_triton() -> str | None:
    """Return a sentence if Triton is missing, else `None`."""
    if importlib.util.find_spec("triton") is None:
        return (
            "Triton is not installed; it comes with CUDA builds of torch on Linux, elsewhere install the "
            "package triton (on Windows triton-windows)."
        )
    return None


def cpp_compiler() -> str:
    """Return the C++ compiler that torch runs for code on a CPU."""
    return os.environ.get("CXX", "cl" if sys.platform == "win32" else "g++")


def why_not_interpreted(dtype: torch.dtype) -> str | None:
    """Return why Triton's interpreter, if on, must not run: it multiplies the bits of bf16 as integers."""
    if interpreted() and dtype == torch.bfloat16:
        return "Triton's interpreter computes wrong bfloat16 products; use float16 or float32 there."
    return None


def why_not(backend: str, request: Request) -> str | None:
    """Return one sentence why a back-end cannot run, or `None`."""
    if backend not in (*BACKENDS, *ON_REQUEST):
        return f"There is no back-end {backend!r}; use {', '.join((*BACKENDS, *ON_REQUEST))}."
    if backend == "reference":
        return None
    return _why_no_flex(request) if backend == "flex" else _why_no_kernel(request)


def _why_no_kernel(request: Request) -> str | None:
    if why := why_no_triton():
        return why
    if request.device.type != "cuda" and not interpreted():
        return (
            f"Triton kernels need a CUDA device, the tensors are on {request.device.type}; use the reference."
        )
    if why := why_not_interpreted(request.dtype):
        return why
    on_gpu = request.device.type == "cuda"
    major, minor = torch.cuda.get_device_capability(request.device) if on_gpu else (8, 0)
    return launch_config.why_not(10 * major + minor, request.dtype.itemsize, request.head_dim, request.blocks)


def _why_no_flex(request: Request) -> str | None:
    if request.device.type == "cuda" and (why := why_no_triton()):
        return why
    if request.device.type == "cpu":
        found = torch.backends.cpu.get_cpu_capability()  # ATEN_CPU_CAPABILITY lowers it
        if sys.platform == "darwin" or not found.startswith("AVX"):
            return (
                f"FlexAttention needs AVX2 on a CPU and does not run on macOS, torch finds {found} on "
                f"{sys.platform}; use the reference."
            )
        if shutil.which(cpp_compiler()) is None:
            return (
                f"FlexAttention compiles C++ on a CPU, and there is no {cpp_compiler()} on the path; use the "
                "reference."
            )
    if request.dtype not in (torch.float16, torch.bfloat16, torch.float32):
        return (
            f"FlexAttention computes in float16, bfloat16 and float32, got {request.dtype}; cast the tensors."
        )
    return None


def choose(request: Request, wanted: str = "auto") -> Choice:
    """Choose the first back-end that can run, or the wanted one; raises `ValueError` if that cannot run."""
    if wanted != "auto":
        if (why := why_not(wanted, request)) is not None:
            raise ValueError(why)
        return Choice(wanted, "asked for")
    refusals = []
    for backend in BACKENDS:
        if (why := why_not(backend, request)) is None:
            return Choice(backend, refusals[-1].rstrip(".") if refusals else "fastest that can run")
        refusals.append(why)
    raise ValueError(refusals[-1])
