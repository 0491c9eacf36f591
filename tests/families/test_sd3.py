"""SD3: our processors give the bits and graphs of diffusers, and the family knows where tokens are."""

import pytest
import torch
from diffusers.models.attention_processor import JointAttnProcessor2_0

from diffusers_ext.core import Layout, RunContext
from diffusers_ext.errors import UnsupportedError
from diffusers_ext.families.base import take_rows
from diffusers_ext.families.sd3 import FAMILY, FusedJointProcessor, JointProcessor

from ..close import alike
from ..tiny_models import sd3
from .mixins import FamilyTests
from .mixins.compile import CompileTests
from .mixins.config import TEXT_TOO
from .mixins.fused import FusedTests
from .mixins.parity import ParityTests
from .parity import install, seen_by_cores

SD35 = dict(qk_norm="rms_norm", dual_attention_layers=(0, 1))


class Case:
    family, stock, adapted = FAMILY, JointAttnProcessor2_0, TEXT_TOO
    unfused, fused = JointProcessor, FusedJointProcessor
    inputs = staticmethod(sd3.inputs)
    odd = tuple({"height": h, "width": w, "text": text} for h, w, text in [(6, 10, 1), (7, 9, 13), (2, 2, 7)])
    scaled_by = "joint_attention_kwargs"


class TestSD3(Case, FamilyTests, FusedTests):
    host = "sd3"
    build = staticmethod(sd3.transformer)


class TestNormsOfQueriesAndKeys(Case, ParityTests, FusedTests):
    @staticmethod
    def build():
        return sd3.transformer(qk_norm="rms_norm")


class TestSD35Medium(Case, FamilyTests, CompileTests):
    host = "sd3.5"

    @staticmethod
    def build():
        return sd3.transformer(**SD35)

    def to_compile(self):
        model = self.build()
        model._repeated_blocks = ["JointTransformerBlock"]  # diffusers lists none for SD3
        return model

    @staticmethod
    def calls():
        return [sd3.inputs(2), sd3.inputs(2, height=12), sd3.inputs(2, height=16)]

    def check_graphs(self, counts):
        assert counts[0] == 2  # the last layer, without text output, is a graph of its own


def test_fused_image_only_attention_is_refused():
    model = sd3.transformer(**SD35)
    model.fuse_qkv_projections()
    site = next(s for s in FAMILY.sites(model, "transformer") if s.kind == "self")
    with pytest.raises(
        UnsupportedError, match=r"transformer\.transformer_blocks\.0\.attn2.*unfuse_qkv_projections"
    ):
        FAMILY.processor(site, RunContext())


def test_bits_equal_stock_in_a_pipeline():
    pipe = sd3.pipeline(**SD35)

    def sample():
        generator = torch.Generator().manual_seed(0)
        return pipe(
            "a red circle", height=32, width=48, num_inference_steps=3, generator=generator, output_type="pt"
        )[0]

    stock = sample()
    install(pipe.transformer, FAMILY, sd3.inputs(2))
    assert torch.equal(stock, sample())


def test_sites():
    sites = FAMILY.sites(sd3.transformer(**SD35), "transformer")
    assert [(s.name, s.kind) for s in sites] == [
        ("transformer_blocks.0.attn", "joint"),
        ("transformer_blocks.0.attn2", "self"),
        ("transformer_blocks.1.attn", "joint"),
        ("transformer_blocks.1.attn2", "self"),
        ("transformer_blocks.2.attn", "joint"),
    ]
    assert {(s.heads, s.head_dim) for s in sites} == {(4, 8)}


def test_layout_has_the_places_of_tokens():
    model, call = sd3.transformer(**SD35), sd3.inputs(2, height=8, width=12, text=7)
    assert FAMILY.layout(model, call) == Layout((1, 4, 6), text=slice(24, 31), vision=slice(0, 24))

    projected = {}
    for name in ("attn.to_v", "attn.add_v_proj", "attn2.to_v"):
        module = model.get_submodule(f"transformer_blocks.0.{name}")
        module.register_forward_hook(lambda m, args, out, name=name: projected.update({name: out}))
    joint, alone, *_ = seen_by_cores(model, FAMILY, call, reads_layout=True).values()

    _, _, v, mask, layout = joint
    assert layout == FAMILY.layout(model, call)
    assert v.shape == (2, 31, 4, 8)
    assert mask is None
    assert torch.equal(v[:, layout.vision].flatten(2), projected["attn.to_v"])
    assert torch.equal(v[:, layout.text].flatten(2), projected["attn.add_v_proj"])

    _, _, v, mask, layout = alone
    assert layout == Layout((1, 4, 6), text=slice(24, 24), vision=slice(0, 24))
    assert torch.equal(v[:, layout.vision].flatten(2), projected["attn2.to_v"])


def test_rows_of_a_call():
    model, call = sd3.transformer(), sd3.inputs(3)
    row = take_rows(call, 3, slice(1, 2), FAMILY.unbatched)
    alike(model(**row)[0], model(**call)[0][1:2])


@torch.no_grad()
def test_cores_that_read_the_layout_compile():
    model, call = sd3.transformer(**SD35), sd3.inputs(2)

    def core(q, k, v, mask, layout):
        out = v.clone()
        out[:, layout.text] = 0
        return out * layout.tokens

    for processor in install(model, FAMILY, call):
        processor.core, processor.reads_layout = core, True
    eager = model(**call)[0]
    torch.compiler.reset()
    for block in model.transformer_blocks:
        block.compile(fullgraph=True, backend="eager")
    assert torch.equal(eager, model(**call)[0])
