"""Every kernel that ships is compiled for every generation of GPU, on a machine without one.

It fits shared memory, keeps everything in registers and uses the matrix units of its generation.
"""

import os

import pytest

from tests import needs

pytest.importorskip("triton", reason=needs.TRITON)
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip(needs.NO_INTERPRETER, allow_module_level=True)

from bench.compiled import dense_binary, forward_binary, tiles_of
from bench.compiled_gradients import MOST_SPILLED, gradient_binary
from diffusers_ext.kernels.block_sparse import launch_config

MATRIX_UNIT = {80: "mma.sync", 86: "mma.sync", 89: "mma.sync", 120: "mma.sync"}
MATRIX_UNIT |= {90: "wgmma.mma_async", 100: "tcgen05.mma"}
RULES = ["box", "band", "disk"]  # blocks without a rule need fewer registers
SHARED_LIMIT = {80: 166_912, 86: 101_376, 89: 101_376, 90: 232_448, 100: 232_448, 120: 101_376}  # bytes


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "1")  # the default; unset, it warns of a change to come


def check(kernel, arch, head_dim, mask, dtype="bf16", blocks=(128, 128), spilled=0, **flags):
    """Compile a kernel that looks coordinates up, with the tiles that a launch chooses."""
    if kernel == "forward":
        tiles = launch_config.choose(kernel, arch, 4 if dtype == "fp32" else 2, head_dim, blocks)
        flags |= dict(BM=blocks[0], BN=blocks[1])
        found = forward_binary("tables", mask, arch, head_dim, tiles, dtype, **flags)
    else:
        found = gradient_binary(kernel, mask, arch, head_dim, dtype, blocks)
    assert found.shared <= SHARED_LIMIT[arch]
    assert found.stack <= spilled, f"{found.stack} bytes of registers spilled"
    return found


@pytest.mark.parametrize("mask", RULES)
def test_computed_rules_cost_few_instructions(mask):
    """The limits are ours: 261 instructions of a warp for 64 keys on Hopper, and 140 more for a check."""
    found, tiles = forward_binary("computed", mask, 90, 128), tiles_of("computed", mask, 90, 128)
    full, checked = found.costs(tiles.rows, tiles.columns, tiles.warps)
    assert 200 < full <= 261 and 50 < checked - full <= 140
    assert not found.stack and found.shared <= SHARED_LIMIT[90]
    assert not found.serialised, "products wait for each other"
    assert "wgmma.mma_async" in found.ptx and "cp.async.bulk.tensor" in found.ptx


def test_two_programs_share_a_multiprocessor_at_heads_of_64():
    found = forward_binary("computed", "box", 90, 64)
    assert found.programs == 2 and not found.stack and not found.serialised


@pytest.mark.slow
@pytest.mark.parametrize("form", ["computed", "irregular"])
@pytest.mark.parametrize("mask", ["none", *RULES])
@pytest.mark.parametrize("head_dim", [32, 64, 96, 128])
@pytest.mark.parametrize("arch", SHARED_LIMIT)
def test_computed_rules_on_every_generation(arch, head_dim, mask, form):
    irregular = form == "irregular"
    if not launch_config.enough_registers(arch, head_dim, mask, irregular):
        return  # these plans are looked up
    tiles = tiles_of(form, mask, arch, head_dim)
    found = forward_binary("computed", mask, arch, head_dim, tiles, LOOKED_UP=irregular)
    spilled = 8 if arch in (86, 89) and head_dim == 96 and mask == "band" and irregular else 0
    assert found.stack <= spilled and not found.serialised and found.shared <= SHARED_LIMIT[arch]
    assert MATRIX_UNIT[arch] in found.ptx


@pytest.mark.slow
def test_a_warp_of_its_own_reads():
    tiles = launch_config.specialised(tiles_of("computed", "none", 90, 128))
    flags = dict(LOOKED_UP=False, SPECIAL=True)
    found = forward_binary("computed", "none", 90, 128, tiles=tiles, **flags)
    assert "setmaxnreg" in found.ptx and found.warps == 12 and not found.stack


@pytest.mark.slow
def test_a_list_costs_little_beside_a_range():
    tiles = tiles_of("computed", "none", 90, 128)
    sizes = tiles.rows, tiles.columns, tiles.warps
    dense, _ = dense_binary(90, 128, tiles).costs(*sizes)
    full, _ = forward_binary("computed", "none", 90, 128, LOOKED_UP=False).costs(*sizes)
    assert full < 1.05 * dense


@pytest.mark.parametrize("arch", [80, pytest.param(90, marks=pytest.mark.slow)])
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
    spilled = MOST_SPILLED if kernel == "dkv" and arch == 90 and mask == "box" else 0
    found = check(kernel, arch, head_dim, mask, spilled=spilled)
    assert MATRIX_UNIT[arch] in found.ptx


@pytest.mark.slow
@pytest.mark.parametrize("mask", RULES)
@pytest.mark.parametrize("head_dim", [32, 64, 128])
@pytest.mark.parametrize("kernel", ["forward", "dq", "dkv"])
@pytest.mark.parametrize("arch", SHARED_LIMIT)
def test_single_precision(arch, kernel, head_dim, mask):
    spilled = 24 if (arch, kernel, head_dim, mask) == (90, "dq", 64, "band") else 0
    check(kernel, arch, head_dim, mask, dtype="fp32", spilled=spilled)


@pytest.mark.slow
@pytest.mark.parametrize("arch", SHARED_LIMIT)
def test_blocks_of_64_and_the_rectified_output(arch):
    for mask in ("disk", "box", "band"):
        check("forward", arch, 128, mask, blocks=(64, 64))
    check("forward", arch, 128, "none", RECTIFY=True, LSE=False)


@pytest.mark.parametrize("kernel", ["dq", "dkv"])
def test_products_of_gradients_do_not_wait_for_each_other(kernel):
    found = check(kernel, 90, 128, "box", spilled=MOST_SPILLED)
    assert "wgmma.mma_async" in found.ptx and not found.serialised


@pytest.mark.slow
@pytest.mark.parametrize("blocks", [(128, 64), (64, 64)])
@pytest.mark.parametrize("kernel", ["dq", "dkv"])
@pytest.mark.parametrize("arch", [80, 90, 100])
def test_gradients_over_halves_of_tiles(arch, kernel, blocks):
    for head_dim in (64, 128):
        for mask in ("box", "band"):  # they need the most registers
            check(kernel, arch, head_dim, mask, blocks=blocks, spilled=MOST_SPILLED)


@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["forward", "dq", "dkv"])
@pytest.mark.parametrize("arch", SHARED_LIMIT)
def test_blocks_of_32_spill_little(arch, kernel):
    check(kernel, arch, 128, "band", blocks=(32, 32), spilled=16)
