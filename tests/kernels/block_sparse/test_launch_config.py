import pytest

from diffusers_ext.kernels.block_sparse.launch_config import choose, why_not


@pytest.mark.parametrize("arch", [80, 86, 89, 90, 100, 103, 120])
@pytest.mark.parametrize("blocks", [(128, 128), (64, 64), (16, 48), (384, 384)])
def test_tiles_divide_blocks(arch, blocks):
    for kernel in ("forward", "dq", "dkv"):
        for itemsize in (2, 4):
            for head_dim in (16, 40, 64, 96, 128):
                t = choose(kernel, arch, itemsize, head_dim, blocks)
                assert blocks[0] % t.rows == blocks[1] % t.columns == 0
                assert t.rows >= 16 and t.columns >= 16 and t.dims >= head_dim


@pytest.mark.parametrize(
    "arguments, words",
    [
        ((75, 2, 64, (128, 128)), "compute capability 8.0, got 7.5"),
        ((90, 8, 64, (128, 128)), "float16, bfloat16 and float32, got elements of 64 bits; cast"),
        ((90, 2, 256, (128, 128)), "heads of 1 to 128 dims, got 256"),
        ((90, 2, 64, (128, 24)), "multiples of 16 tokens"),
    ],
)
def test_what_the_kernels_do_not_take_is_one_sentence(arguments, words):
    assert words in why_not(*arguments)
    with pytest.raises(ValueError, match=words.replace(".", r"\.")):
        choose("forward", *arguments)
