"""What some tests need of a machine, and what to do about it where that is missing."""

import shutil
from multiprocessing import get_all_start_methods

import pytest
import torch
import torch.distributed as dist

compiler = pytest.mark.skipif(
    shutil.which("g++") is None,
    reason="torch.compile builds C++ for a CPU; install g++ (Debian, Ubuntu: apt install g++)",
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
