"""What some tests need of a machine, and what to do about it where that is missing."""

import shutil
import sys
from multiprocessing import get_all_start_methods

import pytest
import torch
import torch.distributed as dist

flex = pytest.mark.skipif(
    shutil.which("g++") is None
    or sys.platform == "darwin"
    or not torch.backends.cpu.get_cpu_capability().startswith("AVX"),
    reason="FlexAttention on a CPU needs AVX2 and g++, and no macOS; apt install g++ on Debian or Ubuntu",
)
processes = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available() and "forkserver" in get_all_start_methods()),
    reason="needs forks and a torch with gloo; run it on Linux or macOS",
)
gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available(),
        reason="needs a GPU that torch.cuda can use; run make gpu where there is one",
    ),
]
TRITON = "Triton is published for Linux only"
NO_INTERPRETER = "kernels are interpreted here, not compiled; unset TRITON_INTERPRET"
