"""Every kernel that ships is compiled for every generation of GPU, on a machine without one.

It fits shared memory, keeps everything in registers and uses the matrix units of its generation.
"""

import os

import pytest

from tests import needs

pytest.importorskip("triton", reason=needs.TRITON)
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip(needs.NO_INTERPRETER, allow_module_level=True)

from tests.kernels.block_sparse.compiled import SHARED_LIMIT, binary

MATRIX_UNIT = {80: "mma.sync", 86: "mma.sync", 89: "mma.sync", 120: "mma.sync"}
MATRIX_UNIT |= {90: "wgmma.mma_async", 100: "tcgen05.mma"}
RULES = ["box", "band", "disk"]  # blocks without a rule need fewer registers


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "1")  # the default; unset, it warns of a change to come


def check(kernel, arch, *args, spilled=0, **kwargs):
    found = binary(kernel, arch, *args, **kwargs)
    assert found.shared <= SHARED_LIMIT[arch]
    assert found.stack <= spilled, f"{found.stack} bytes of registers spilled"
    return found


@pytest.mark.parametrize("arch", SHARED_LIMIT)
def test_forward_with_windows(arch):
    found = check("forward", arch, 128, "box")
    assert MATRIX_UNIT[arch] in found.ptx
    assert "cp.async" in found.ptx, "loads are not pipelined"


@pytest.mark.slow
@pytest.mark.parametrize("mask", RULES)
@pytest.mark.parametrize("head_dim", [32, 64, 96, 128])
@pytest.mark.parametrize("kernel", ["forward", "dq", "dkv"])
@pytest.mark.parametrize("arch", SHARED_LIMIT)
def test_half_precision(arch, kernel, head_dim, mask):
    found = check(kernel, arch, head_dim, mask)
    assert MATRIX_UNIT[arch] in found.ptx


@pytest.mark.slow
@pytest.mark.parametrize("mask", RULES)
@pytest.mark.parametrize("head_dim", [32, 64, 128])
@pytest.mark.parametrize("kernel", ["forward", "dq", "dkv"])
@pytest.mark.parametrize("arch", SHARED_LIMIT)
def test_single_precision(arch, kernel, head_dim, mask):
    check(kernel, arch, head_dim, mask, dtype="fp32")


@pytest.mark.slow
@pytest.mark.parametrize("arch", SHARED_LIMIT)
def test_blocks_of_64_and_the_rectified_output(arch):
    for mask in ("disk", "box", "band"):
        check("forward", arch, 128, mask, blocks=(64, 64))
    check("forward", arch, 128, "none", flags={"RECTIFY": True, "LSE": False})


@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["forward", "dq", "dkv"])
@pytest.mark.parametrize("arch", SHARED_LIMIT)
def test_blocks_of_32_spill_little(arch, kernel):
    check(kernel, arch, 128, "band", blocks=(32, 32), spilled=16)
