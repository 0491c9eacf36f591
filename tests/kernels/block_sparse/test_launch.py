"""Launches up to the driver, without a GPU: Triton binds and specialises the arguments of real calls
and compiles what comes out.
"""

import os

import pytest
import torch

from tests import needs

pytest.importorskip("triton", reason=needs.TRITON)
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip(needs.NO_INTERPRETER, allow_module_level=True)

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.runtime.jit import create_function_from_signature

from diffusers_ext.kernels.block_sparse import triton_backward, triton_forward
from diffusers_ext.kernels.block_sparse.capabilities import interpreted
from tests.kernels.block_sparse.cases import CASES, tensors

TARGET = GPUTarget("cuda", 90, 32)


class UpToTheDriver:
    """Stands for a kernel; a launch ends with the compiled program in `done`."""

    def __init__(self, kernel, done):
        self.kernel, self.done = kernel, done

    def __getitem__(self, grid):
        def launch(*args, **kwargs):
            kernel, backend = self.kernel, make_backend(TARGET)
            bind = create_function_from_signature(kernel.signature, kernel.params, backend)
            kwargs |= {"debug": False}
            bound, specialization, options = bind(*args, **kwargs)
            options, signature, constants, attrs = kernel._pack_args(
                backend, kwargs, bound, specialization, options
            )
            source = ASTSource(kernel, signature, constants, attrs)
            program = triton.compile(source, target=TARGET, options=options.__dict__)
            assert all(0 < n < 2**31 for n in grid)
            self.done.append((program.metadata.name, signature))

        return launch


@pytest.mark.parametrize("name", ["none", "box"])  # no parameters, and ones that become constants
def test_arguments_bind_and_compile(name, monkeypatch, tmp_path):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "1")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    done = []
    for module, kernel in (
        (triton_forward, "forward_kernel"),
        (triton_backward, "query_kernel"),
        (triton_backward, "key_kernel"),
    ):
        monkeypatch.setattr(module, kernel, UpToTheDriver(getattr(module, kernel), done))
    case = CASES[name]()
    problem = case.problem(64, 64)
    q, k, v = tensors(case, 2, 1 if name == "none" else 3, 64, torch.bfloat16)
    out, lse = triton_forward.forward(q, k, v, problem, scale=0.125, with_lse=True)
    triton_backward.backward(out, lse, q, k, v, out, lse, problem, scale=0.125)
    assert [kernel for kernel, _ in done] == ["forward_kernel", "query_kernel", "key_kernel"]
    assert all(len(signature["rule"]) == len(problem.kernel_params) for _, signature in done)
    assert interpreted() is False
