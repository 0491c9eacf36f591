"""FLUX.1: our processors give the bits of diffusers, and the family knows where everything is."""

import pytest
import torch
from diffusers import FluxControlPipeline
from diffusers.models.transformers.transformer_flux import FluxAttnProcessor, FluxIPAdapterAttnProcessor

import diffusers_ext as dx
from diffusers_ext.core import Layout
from diffusers_ext.families import family_of
from diffusers_ext.families.base import take_rows
from diffusers_ext.families.flux import FAMILY

from ..close import alike
from ..tiny_models import flux as tiny
from .mixins import FamilyTests
from .mixins.backend import BackendTests
from .mixins.compile import CompileTests
from .mixins.config import TEXT_TOO
from .parity import assert_parity, install, outputs, seen_by_cores


class TestFlux(FamilyTests, BackendTests, CompileTests):
    family, stock, adapted, host = FAMILY, FluxAttnProcessor, TEXT_TOO, "flux"
    build, inputs = staticmethod(tiny.transformer), staticmethod(tiny.inputs)
    odd = ({"height": 5, "width": 3, "text": 5}, {"height": 1, "width": 7}, {"height": 9, "width": 1})
    scaled_by = "joint_attention_kwargs"

    @staticmethod
    def to_compile():
        return tiny.transformer(num_layers=3, num_single_layers=4)

    @staticmethod
    def calls():
        return [tiny.inputs(), tiny.inputs(seed=1), tiny.inputs(height=6, width=4)]

    def check_graphs(self, counts):
        assert len(set(counts)) == 1, "neither a new step nor a turned grid may recompile"


def key_mask(batch, length):
    """`[B, 1, 1, N]`, true where a key may be seen; each row hides other keys."""
    mask = torch.ones(batch, 1, 1, length, dtype=torch.bool)
    for row in range(batch):
        mask[row, ..., row : row + 3] = False
    return mask


@pytest.mark.parametrize("fused", [False, True], ids=["unfused", "fused"])
@pytest.mark.parametrize("masked", [False, True], ids=["plain", "masked"])
@pytest.mark.parametrize("guidance", [None, 3.5], ids=["no-guidance", "guidance-embed"])
@pytest.mark.parametrize("batch", [1, 2])
def test_parity(batch, guidance, masked, fused):
    model = tiny.transformer(guidance_embeds=guidance is not None)
    call = tiny.inputs(batch, guidance=guidance)
    if masked:
        call["joint_attention_kwargs"] = {"attention_mask": key_mask(batch, 7 + 4 * 6)}
    if fused:
        model.fuse_qkv_projections()
        assert model.transformer_blocks[0].attn.fused_projections
    assert_parity(model, FAMILY, call)


@pytest.mark.parametrize("blocks", [(3, 0), (0, 3)], ids=["double", "single"])
@pytest.mark.parametrize("grid", [(5, 3), (1, 7), (9, 1)], ids=str)
def test_parity_of_each_kind_of_block_on_odd_grids(grid, blocks):
    model = tiny.transformer(num_layers=blocks[0], num_single_layers=blocks[1])
    assert_parity(model, FAMILY, tiny.inputs(2, height=grid[0], width=grid[1], text=5))


def test_mask_changes_the_output():
    model, call = tiny.transformer(), tiny.inputs()
    install(model, FAMILY, call)
    masked = {**call, "joint_attention_kwargs": {"attention_mask": key_mask(1, 7 + 4 * 6)}}
    assert not torch.equal(outputs(model, call), outputs(model, masked))


def test_pipeline_parity():
    pipe = tiny.pipeline()
    call = dict(height=24, width=32, num_inference_steps=2, max_sequence_length=16, output_type="latent")
    expected = pipe("a red fox", generator=torch.Generator().manual_seed(0), **call).images
    processors = install(pipe.transformer, FAMILY, tiny.inputs())
    actual = pipe("a red fox", generator=torch.Generator().manual_seed(0), **call).images
    assert {p.calls for p in processors} == {2}
    assert torch.equal(actual, expected)


def test_core_gets_the_joint_sequence():
    model, call = tiny.transformer(), tiny.inputs(2)
    seen = seen_by_cores(model, FAMILY, call)
    for *qkv, mask, layout in seen.values():
        assert [x.shape for x in qkv] == [(2, 7 + 24, 4, 16)] * 3
        assert mask is None and layout == FAMILY.layout(model, call)
    assert len(seen) == 5


def test_single_block_rows_are_text_then_image():
    """Losing the text rows of the last single block leaves the image rows as they were."""
    model, call = tiny.transformer(num_layers=0, num_single_layers=1), tiny.inputs()
    plain = outputs(model, call)
    (processor,) = install(model, FAMILY, call)
    layout = FAMILY.layout(model, call)

    def core(q, k, v, mask, layout):
        out = processor.dense(q, k, v, mask, layout).clone()
        out[:, layout.text] = 0
        return out

    processor.core = core
    assert torch.equal(outputs(model, call), plain)
    assert layout.text == slice(0, 7) and layout.vision == slice(7, 31)


def test_sites():
    sites = FAMILY.sites(tiny.transformer(), "transformer")
    assert [s.name for s in sites] == [f"transformer_blocks.{i}.attn" for i in range(2)] + [
        f"single_transformer_blocks.{i}.attn" for i in range(3)
    ]
    assert {(s.heads, s.head_dim, s.kind) for s in sites} == {(4, 16, "joint")}
    assert sites[0].path == "transformer.transformer_blocks.0.attn"


@pytest.mark.parametrize("batched", [False, True], ids=["ids2d", "ids3d"])
@pytest.mark.parametrize("origin", [(0, 0, 0), (0, 2, 5), (1, 0, 0)], ids=str)
@pytest.mark.parametrize("grid", [(4, 6), (6, 4), (1, 5), (5, 1), (1, 1)], ids=str)
def test_layout_from_position_ids(grid, origin, batched):
    call = tiny.inputs(2, height=grid[0], width=grid[1])
    ids = call["img_ids"] + torch.tensor(origin)
    call["img_ids"] = ids[None] if batched else ids
    tokens = grid[0] * grid[1]
    assert FAMILY.layout(None, call) == Layout((1, *grid), slice(0, 7), slice(7, 7 + tokens))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.int64], ids=str)
def test_layout_survives_ids_in_the_models_dtype(dtype):
    call = tiny.inputs(height=300, width=2, dtype=torch.float32)
    call["img_ids"] = call["img_ids"].to(dtype)
    assert FAMILY.layout(None, call).grid == (1, 300, 2)


@pytest.mark.parametrize("second", [(4, 6), (3, 5), (2, 9)], ids=str)
def test_layout_of_a_reference_image_is_one_row(second):
    """Kontext appends the tokens of a second image, whose first id is 1."""
    call = tiny.inputs()
    reference = tiny.image_ids(*second) + torch.tensor([1, 0, 0])
    call["img_ids"] = torch.cat([call["img_ids"], reference])
    tokens = len(call["img_ids"])
    call["hidden_states"] = torch.zeros(1, tokens, 16)
    layout = FAMILY.layout(None, call)
    assert layout.grid == (1, 1, tokens) and layout.tokens == tokens and not layout.raster
    assert layout.vision == slice(7, 7 + tokens)


@pytest.mark.parametrize("batched", [False, True], ids=["ids2d", "ids3d"])
def test_ids_of_another_size_are_refused(batched):
    """Before the first block, in a sentence; with the right ones the session goes on."""
    model, call = tiny.transformer(), tiny.inputs()
    ids = tiny.image_ids(4, 5)
    words = "one row of img_ids for each image token, got 20 ids for 24 tokens of hidden_states; make the ids"
    with dx.apply(model, dx.SoftPAG()):
        wanted = outputs(model, call)
        with pytest.raises(dx.UnsupportedError, match=words):
            outputs(model, call | {"img_ids": ids[None] if batched else ids})
        assert torch.equal(outputs(model, call), wanted)


def test_packed_latents_of_another_size_are_refused():
    latents = torch.zeros(1, 8 * 12, 16)
    with pytest.raises(dx.MethodError, match="8 x 8 tokens, got 96 tokens; give the height and width"):
        FAMILY.decode(tiny.pipeline(), latents, {"height": 32, "width": 32})


@pytest.mark.parametrize("order", ["column-major", "shuffled"])
def test_layout_of_another_order_is_one_row(order):
    call = tiny.inputs()
    index = torch.arange(24).view(4, 6).T.flatten() if order == "column-major" else torch.arange(24).flip(0)
    call["img_ids"] = call["img_ids"][index]
    layout = FAMILY.layout(None, call)
    assert layout.grid == (1, 1, 24) and not layout.raster


def test_rows_keep_all_position_ids():
    call = tiny.inputs(2, height=1, width=2, text=2)  # as many tokens as rows: only names differ
    rows = take_rows(call, 2, slice(1, 2), FAMILY.unbatched)
    assert rows["img_ids"] is call["img_ids"] and rows["txt_ids"] is call["txt_ids"]
    model = tiny.transformer()
    alike(outputs(model, rows), outputs(model, call)[1:])


def test_stock_leaves_ip_adapters_alone():
    assert FluxIPAdapterAttnProcessor.__name__ not in FAMILY.stock


def test_noise_of_a_control_pipeline_has_the_channels_of_the_autoencoder():
    pipe = tiny.pipeline(in_channels=32, out_channels=16)
    parts = {name: part for name, part in pipe.components.items() if part is not None}
    control = FluxControlPipeline(**parts)
    size = {"height": 32, "width": 48}
    drawn = control.prepare_latents(1, 4, *size.values(), torch.float32, "cpu", torch.Generator())[0]
    assert family_of(control.transformer).noise_shape(control, size) == drawn.shape
