"""Mochi: our processors give the bits of diffusers, and the family knows where everything is."""

from functools import partial

import pytest
import torch
from diffusers.models.attention_processor import MochiAttnProcessor2_0

from diffusers_ext.families.mochi import FAMILY

from ..tiny_models import mochi as tiny
from .mixins import FamilyTests
from .mixins.config import TEXT_TOO
from .mixins.video import VideoTests
from .parity import assert_parity, graphs, install, outputs, seen_by_cores


class TestMochi(FamilyTests, VideoTests):
    family, stock, adapted, host, words = FAMILY, MochiAttnProcessor2_0, TEXT_TOO, "mochi", 7
    build = staticmethod(tiny.transformer)
    inputs = staticmethod(partial(tiny.inputs, lengths=(5, 3, 4)))
    odd = tuple({"frames": t, "height": h, "width": w} for t, h, w in [(1, 3, 5), (5, 1, 3), (7, 3, 1)])
    scaled_by = "attention_kwargs"


@pytest.mark.parametrize("lengths", [(5, 3), (7, 1), (0, 7)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("batch", [1, 2])
def test_parity(batch, dtype, lengths):
    model = tiny.transformer().to(dtype)
    assert_parity(model, FAMILY, tiny.inputs(batch, lengths=lengths, dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32], ids=str)
def test_parity_with_padding_anywhere(dtype):
    """diffusers packs valid tokens to the front in each layer; so the second one reads other tokens."""
    call = tiny.inputs(2)
    call["encoder_attention_mask"] = torch.tensor([[0, 1, 1, 0, 1, 0, 1], [1, 0, 0, 0, 0, 1, 1]]).to(dtype)
    assert_parity(tiny.transformer(), FAMILY, call)


def test_parity_with_rotary_angles():
    """Frequencies are weights and start as zeros; the tiny model has moved them."""
    model = tiny.transformer()
    assert model.pos_frequencies.abs().max() > 0.1
    model.pos_frequencies.mul_(20)
    assert_parity(model, FAMILY, tiny.inputs(2))


def test_core_gets_the_joint_sequence_with_prompts_packed():
    model, call = tiny.transformer(), tiny.inputs(2)
    call["encoder_attention_mask"] = torch.tensor([[0, 1, 1, 0, 1, 0, 1], [1, 0, 0, 0, 0, 1, 1]]).bool()
    seen = seen_by_cores(model, FAMILY, call)
    for *qkv, mask, layout in seen.values():
        assert [x.shape for x in qkv] == [(2, 79, 4, 16)] * 3 and layout == FAMILY.layout(model, call)
        assert mask.shape == (2, 1, 1, 79) and mask[:, 0, 0, layout.vision].all()
        assert mask[:, 0, 0, layout.text].int().tolist() == [[1] * 4 + [0] * 3, [1] * 3 + [0] * 4]
    assert len(seen) == 3


def test_what_a_core_writes_for_padding_is_not_used():
    model, call = tiny.transformer(), tiny.inputs(2)
    plain = outputs(model, call)
    for processor in install(model, FAMILY, call):

        def core(q, k, v, mask, layout, dense=processor.dense):
            return dense(q, k, v, mask, layout).masked_fill(~mask[:, 0, 0, :, None, None], torch.nan)

        processor.core = core
    assert torch.equal(outputs(model, call), plain)


def test_text_rows_alone_are_masked():
    """Sparse cores use the attention below for text rows."""
    (processor, *_) = install(tiny.transformer(), FAMILY, tiny.inputs())
    q, k, v = torch.randn(3, 2, 12, 4, 16, generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(12) < torch.tensor([9, 6])[:, None])[:, None, None]
    whole = processor.dense(q, k, v, mask, None)
    text = processor.dense(q[:, 5:], k, v, mask, None)
    torch.testing.assert_close(text[0, :4], whole[0, 5:9])
    torch.testing.assert_close(text[1, :1], whole[1, 5:6])
    assert (whole[0, 9:] == 0).all() and (whole[1, 6:] == 0).all()


@pytest.mark.slow
def test_compiles_to_no_more_graphs_than_diffusers():
    """diffusers reads the length of each prompt, and breaks the graph of a block there."""
    calls = [tiny.inputs(2), tiny.inputs(2, seed=1)]
    found = []
    for family in (None, FAMILY):
        model = tiny.transformer()
        model._repeated_blocks = ["MochiTransformerBlock"]  # diffusers lists none for Mochi
        found.append(graphs(model, family, calls, fullgraph=False))
    stock, ours = found
    assert ours[0] <= stock[0] and ours[0] == ours[1]


def test_sites():
    sites = FAMILY.sites(tiny.transformer(), "transformer")
    assert [s.name for s in sites] == [f"transformer_blocks.{i}.attn1" for i in range(3)]
    assert {(s.heads, s.head_dim, s.kind) for s in sites} == {(4, 16, "joint")}
