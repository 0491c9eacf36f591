"""What some tests need of a machine, and what to do about it where that is missing."""

import shutil

import pytest
import torch

compiler = pytest.mark.skipif(
    shutil.which("g++") is None,
    reason="torch.compile builds C++ for a CPU; install g++ (Debian, Ubuntu: apt install g++)",
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
