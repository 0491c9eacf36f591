"""Describe the machine of a run and what it can do."""

from __future__ import annotations

import platform
import shutil
from pathlib import Path


def hardware() -> str:
    """Return the machine in words."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    names = Path("/proc/cpuinfo")
    model = platform.processor() or platform.machine()
    if names.exists():
        lines = [
            s.split(":", 1)[1].strip() for s in names.read_text().splitlines() if s.startswith("model name")
        ]
        model = lines[0] if lines else model
    units = ", bf16 matrix units" if torch.cpu._is_amx_tile_supported() else ""
    return f"{model}{units}, {torch.get_num_threads()} thread(s)"


def precision() -> str:
    """Return accelerate's mixed_precision: bf16 if matrix units make it faster, else fp32."""
    import torch

    if torch.cuda.is_available():
        return "bf16"
    return "bf16" if torch.cpu._is_amx_tile_supported() else "no"


def compiles() -> bool:
    """Return whether torch.compile can build its CPU code."""
    from ..kernels.block_sparse.capabilities import cpp_compiler

    return shutil.which(cpp_compiler()) is not None
