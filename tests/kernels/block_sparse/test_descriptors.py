import importlib.metadata

import pytest
import torch

from diffusers_ext.kernels.block_sparse.descriptors import fit, memory, why_pointers
from diffusers_ext.kernels.block_sparse.launch_config import specialised, with_descriptors
from tests import needs


@pytest.mark.parametrize(
    "version, arch, words",
    [
        ("3.9.0", 90, "tested with Triton 3.6 and 3.7, found 3.9.0; kernels read by pointers"),
        ("3.7.1", 80, "on compute capability 9.0 to 10.9, this is 8.0; kernels read by pointers"),
        ("3.7.1", 120, "this is 12.0"),
        ("3.6.0", 90, None),
        ("3.7.1", None, None),
    ],
)
def test_the_reason_is_one_sentence(version, arch, words, monkeypatch):
    pytest.importorskip("triton", reason=needs.TRITON)
    monkeypatch.setattr(importlib.metadata, "version", lambda package: version)
    why = why_pointers(arch)
    assert why is None if words is None else words in why


def test_which_tensors_fit():
    fused = torch.zeros(2, 5, 3, 4, 64, dtype=torch.bfloat16)
    assert fit(*fused.unbind(2))
    assert not fit(fused[:, :, 0], fused[:, :, 1].float())
    assert not fit(fused[:, :, 0, :, :40])  # 40 is no power of two
    assert not fit(fused.view(-1)[1 : 1 + 2 * 64].view(1, 2, 1, 64))  # starts at byte 2
    assert not fit(torch.zeros(1, 3, 1, 68, dtype=torch.half)[..., :64])  # steps of 136 bytes


def test_the_allocator_of_the_user_is_put_back():
    triton = pytest.importorskip("triton", reason=needs.TRITON)
    from triton.runtime._allocation import _allocator

    def own(size, alignment, stream):
        raise AssertionError

    before = _allocator.get()
    triton.set_allocator(own)
    try:
        with pytest.raises(KeyError), memory(torch.device("cpu")):
            assert _allocator.get()(256, 128, None).numel() == 256
            raise KeyError
        assert _allocator.get() is own
    finally:
        triton.set_allocator(before)


@pytest.mark.parametrize("arch", [90, 100, 103])
@pytest.mark.parametrize("blocks", [(128, 128), (64, 64), (16, 48), (384, 384)])
def test_tiles_divide_blocks(arch, blocks):
    for head_dim in (16, 64, 128):
        for rule in (("disk", False), ("band", False), ("band", True)):
            t = with_descriptors(arch, head_dim, blocks, *rule)
            assert t.tma and blocks[0] % t.rows == blocks[1] % t.columns == 0 and t.dims >= head_dim
            assert specialised(t).special and not t.special
