"""HunyuanVideo: our processors give the bits of diffusers, and the family knows where everything is."""

from functools import partial

import pytest
import torch
from diffusers import HunyuanVideoFramepackTransformer3DModel
from diffusers.models.transformers.transformer_hunyuan_video import HunyuanVideoAttnProcessor2_0

from diffusers_ext.errors import UnsupportedError
from diffusers_ext.families import family_of
from diffusers_ext.families.hunyuan_video import FAMILY

from ..tiny_models import hunyuan_video as tiny
from .mixins import FamilyTests
from .mixins.backend import BackendTests
from .mixins.compile import CompileTests
from .mixins.config import TEXT_TOO
from .mixins.video import VideoTests
from .parity import assert_parity, graphs, install, outputs, seen_by_cores

IMAGE_TO_VIDEO = {
    "latent_concat": (dict(in_channels=9, image_condition_type="latent_concat"), dict(channels=9)),
    "token_replace": (dict(image_condition_type="token_replace"), {}),
}


class TestHunyuanVideo(FamilyTests, BackendTests, CompileTests, VideoTests):
    family, stock, adapted, words = FAMILY, HunyuanVideoAttnProcessor2_0, TEXT_TOO, 7
    host, outside, token_axis = "hunyuan-video", "refiner", 0
    build = to_compile = staticmethod(tiny.transformer)
    inputs = staticmethod(partial(tiny.inputs, lengths=(5, 3, 4)))
    odd = ({"frames": 1, "height": 3, "width": 5}, {"frames": 7, "height": 3, "width": 1})
    scaled_by = "attention_kwargs"

    @staticmethod
    def calls():
        return [tiny.inputs(), tiny.inputs(seed=1, lengths=(6,))]

    def check_graphs(self, counts):
        assert counts[0] == counts[1], "neither a new step nor a longer prompt may recompile"


@pytest.mark.parametrize("guidance", [None, 6.0], ids=["no-guidance", "guidance-embed"])
@pytest.mark.parametrize("lengths", [(5, 3), (7, 1), (1, 7)], ids=str)
@pytest.mark.parametrize("batch", [1, 2])
def test_parity(batch, lengths, guidance):
    model = tiny.transformer(guidance_embeds=guidance is not None)
    assert_parity(model, FAMILY, tiny.inputs(batch, lengths=lengths, guidance=guidance))


@pytest.mark.parametrize("blocks", [(3, 0), (0, 3)], ids=["double", "single"])
@pytest.mark.parametrize("grid", [(1, 3, 5), (5, 1, 3), (7, 3, 1)], ids=str)
def test_parity_of_each_kind_of_block_on_odd_grids(grid, blocks):
    model = tiny.transformer(num_layers=blocks[0], num_single_layers=blocks[1])
    frames, height, width = grid
    assert_parity(model, FAMILY, tiny.inputs(2, frames=frames, height=height, width=width))


@pytest.mark.parametrize("form", IMAGE_TO_VIDEO)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_parity_of_image_to_video(dtype, form):
    config, call = IMAGE_TO_VIDEO[form]
    model = tiny.transformer(**config).to(dtype)
    assert_parity(model, FAMILY, tiny.inputs(2, dtype=dtype, **call))


def test_parity_without_norms_of_queries_and_keys():
    assert_parity(tiny.transformer(qk_norm=None), FAMILY, tiny.inputs(2))


def test_parity_after_fusing_which_diffusers_does_not_do_here():
    model = tiny.transformer()
    model.fuse_qkv_projections()
    assert not hasattr(model.transformer_blocks[0].attn, "to_qkv")
    assert_parity(model, FAMILY, tiny.inputs(2))


def test_core_gets_the_joint_sequence_and_the_mask_of_the_padding():
    model, call = tiny.transformer(), tiny.inputs(2)
    seen = seen_by_cores(model, FAMILY, call)
    for *qkv, mask, layout in seen.values():
        assert [x.shape for x in qkv] == [(2, 79, 4, 16)] * 3 and layout == FAMILY.layout(model, call)
        assert mask.dtype == torch.bool and mask.shape == (2, 1, 1, 79)
        assert mask[:, 0, 0, layout.vision].all()
        assert mask[:, 0, 0, layout.text].sum(1).tolist() == [5, 3]
    assert len(seen) == 4


@pytest.mark.parametrize("stack", ["transformer_blocks", "single_transformer_blocks"])
def test_rows_are_video_then_text(stack):
    """Losing the text rows of the last block leaves the video rows as they were."""
    blocks = dict(num_layers=int(stack[0] == "t"), num_single_layers=int(stack[0] == "s"))
    model, call = tiny.transformer(**blocks), tiny.inputs()
    plain = outputs(model, call)
    (processor,) = install(model, FAMILY, call)

    def core(q, k, v, mask, layout):
        out = processor.dense(q, k, v, mask, layout).clone()
        out[:, layout.text] = 0
        return out

    processor.core = core
    assert torch.equal(outputs(model, call), plain)


@pytest.mark.slow
def test_compiles_a_turned_grid_to_as_many_graphs_as_diffusers():
    calls = [*TestHunyuanVideo.calls(), tiny.inputs(height=6, width=4)]
    assert graphs(tiny.transformer(), FAMILY, calls) == graphs(tiny.transformer(), None, calls)


def test_sites():
    sites = FAMILY.sites(tiny.transformer(), "transformer")
    assert [s.name for s in sites] == [f"transformer_blocks.{i}.attn" for i in range(2)] + [
        f"single_transformer_blocks.{i}.attn" for i in range(2)
    ]
    assert {(s.heads, s.head_dim, s.kind) for s in sites} == {(4, 16, "joint")}


def test_layout_of_patches_in_time():
    model = tiny.transformer(patch_size_t=2)
    assert FAMILY.layout(model, tiny.inputs(frames=4)).grid == (2, 4, 6)


def test_framepack_is_refused():
    """Its sequence has three histories in front of the grid, and cuts the text of a single prompt."""
    model = HunyuanVideoFramepackTransformer3DModel(
        **tiny.CONFIG, has_clean_x_embedder=True, has_image_proj=True
    )
    with pytest.raises(UnsupportedError, match=r"No family knows.*HunyuanVideoFramepackTransformer3DModel"):
        family_of(model)
