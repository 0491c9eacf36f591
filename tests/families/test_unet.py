"""SD 1.5 and SDXL: our processors give the bits and graphs of diffusers; sites know their grids."""

from functools import partial

import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from hypothesis import given
from hypothesis import strategies as st

from diffusers_ext.core import Layout, RunContext, Site
from diffusers_ext.families.base import take_rows
from diffusers_ext.families.unet import FAMILY, FusedUNetProcessor, UNetProcessor, at_level

from ..close import alike
from ..tiny_models import unet
from ..tiny_models.parts import seeded
from .mixins import FamilyTests
from .mixins.compile import CompileTests
from .mixins.fused import FusedTests
from .parity import assert_parity, install, outputs, seen_by_cores

SITE = Site("down_blocks.0.attentions.0.transformer_blocks.0.attn1", 0, 4, 4, "self")
ONLY_CROSS = dict(only_cross_attention=True)
BRANCHES = {
    "plain": {},
    "group_norm": dict(norm_num_groups=4, residual_connection=True, rescale_output_factor=2.0),
    "spatial_norm": dict(spatial_norm_dim=8, norm_num_groups=4),
    "layer_norm_cross": dict(cross_attention_norm="layer_norm", qk_norm="layer_norm", bias=True),
    "group_norm_cross": dict(
        cross_attention_norm="group_norm", cross_attention_norm_num_groups=4, qk_norm="rms_norm"
    ),
}
either = pytest.mark.parametrize("sdxl", [False, True], ids=["sd", "sdxl"])


class Case:
    family, stock = FAMILY, AttnProcessor2_0
    unfused, fused = UNetProcessor, FusedUNetProcessor
    odd = tuple({"height": h, "width": w, "text": text} for h, w, text in [(9, 7, 1), (5, 12, 13), (1, 3, 7)])
    scaled_by = "cross_attention_kwargs"

    def calls(self):
        return [self.inputs(2, height=h, width=16) for h in (16, 16, 24)]


class TestUNet(Case, FamilyTests, FusedTests, CompileTests):
    host = "sd"
    build, inputs = staticmethod(unet.unet), staticmethod(unet.inputs)

    def to_compile(self):
        # As in SD 1.5 the two coarsest resolutions are equally wide, so torch compiles once for both.
        return unet.unet(
            block_out_channels=(16, 16),
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        )


class TestUNetXL(Case, FamilyTests, FusedTests, CompileTests):
    host = "sdxl"
    build = staticmethod(partial(unet.unet, sdxl=True))
    inputs = staticmethod(partial(unet.inputs, sdxl=True))
    to_compile = build

    @pytest.mark.slow  # SDXL has the blocks of SD
    def test_compiles_to_as_many_graphs_as_diffusers(self):
        super().test_compiles_to_as_many_graphs_as_diffusers()


@pytest.mark.parametrize("fused", [False, True], ids=["unfused", "fused"])
@pytest.mark.parametrize("batch", [1, 2])
def test_bits_equal_stock_under_masks(batch, fused):
    # diffusers can mask self-attention only if all of it runs at one resolution, as in the SDXL shape.
    model, call = unet.unet(sdxl=True), unet.inputs(batch, sdxl=True, height=8, width=12)
    plain = outputs(model, call)
    if fused:
        model.fuse_qkv_projections()
    call["attention_mask"] = torch.ones(batch, 4 * 6)
    call["encoder_attention_mask"] = torch.ones(batch, 7)
    for row in range(batch):
        call["attention_mask"][row, row : row + 5] = 0
        call["encoder_attention_mask"][row, 4 - row :] = 0
    assert not torch.allclose(plain, outputs(model, call), atol=1e-3)
    assert_parity(model, FAMILY, call)


@pytest.mark.parametrize("config", [ONLY_CROSS, dict(upcast_attention=True)], ids=["only_cross", "upcast"])
def test_bits_equal_stock_in_other_shapes(config):
    assert_parity(unet.unet(**config), FAMILY, unet.inputs(2))


@pytest.mark.parametrize("masked", [False, True], ids=["plain", "masked"])
@pytest.mark.parametrize("context", [None, 5], ids=["self", "cross"])
@pytest.mark.parametrize(
    ("branch", "ndim"),
    [(b, n) for b in BRANCHES for n in (3, 4) if (b, n) != ("spatial_norm", 3)],  # it takes images only
)
def test_bits_equal_stock_in_every_branch_of_the_module(branch, ndim, context, masked):
    config = BRANCHES[branch]
    cross = dict(cross_attention_dim=32) if context else {}
    attn = seeded(lambda: Attention(32, heads=4, dim_head=8, **config, **cross), seed=0)
    generator = torch.Generator().manual_seed(1)
    call = dict(hidden_states=torch.randn(2, 32, 3, 5, generator=generator))
    if ndim == 3:
        call["hidden_states"] = call["hidden_states"].flatten(2).mT.contiguous()
    if branch == "spatial_norm":
        call["temb"] = torch.randn(2, 8, 3, 5, generator=generator)
    if context:
        call["encoder_hidden_states"] = torch.randn(2, context, 32, generator=generator)
    if masked:
        call["attention_mask"] = torch.randn(2, 1, context or 15, generator=generator)
    assert isinstance(attn.processor, AttnProcessor2_0)
    stock = attn(**call)
    attn.set_processor(UNetProcessor(SITE, RunContext()))
    assert torch.equal(stock, attn(**call))


@either
def test_bits_equal_stock_in_a_pipeline(sdxl):
    pipe = unet.pipeline(sdxl)

    def sample():
        generator = torch.Generator().manual_seed(0)
        return pipe(
            "a star", height=16, width=24, num_inference_steps=3, generator=generator, output_type="pt"
        )[0]

    stock = sample()
    install(pipe.unet, FAMILY, unet.inputs(2, sdxl=sdxl))
    assert torch.equal(stock, sample())


def test_an_autoencoder_that_overflows_in_half_precision_decodes_in_fp32():
    """diffusers casts SDXL's autoencoder back after the call, which gradients would not survive."""
    pipe = unet.pipeline(sdxl=True)
    pipe.vae.to(torch.float16)
    call = dict(height=16, width=24, num_inference_steps=1, return_dict=False)
    latents, picture = (
        pipe("a", **call, generator=torch.Generator().manual_seed(0), output_type=kind)[0]
        for kind in ("latent", "pt")
    )
    leaf = latents.clone().requires_grad_()
    made = FAMILY.decode(pipe, leaf, call)
    assert torch.equal(made, picture) and pipe.vae.dtype == torch.float16
    (gradient,) = torch.autograd.grad(made.mean(), leaf)
    assert gradient.abs().max() > 0


def test_sites():
    sites = FAMILY.sites(unet.unet(), "unet")
    assert [s.name.replace(".attentions", "").replace(".transformer_blocks", "") for s in sites] == [
        f"{place}.{attn}"
        for place in ("down_blocks.0.0.0", "mid_block.0.0", "up_blocks.1.0.0", "up_blocks.1.1.0")
        for attn in ("attn1", "attn2")
    ]
    assert [s.kind for s in sites] == ["self", "cross"] * 4
    assert [(s.heads, s.head_dim) for s in sites] == [(4, 4)] * 2 + [(4, 8)] * 2 + [(4, 4)] * 4


@either
def test_sites_come_in_the_order_in_which_they_run(sdxl):
    model, call = unet.unet(sdxl), unet.inputs(sdxl=sdxl)
    ran = []
    sites = FAMILY.sites(model, "")
    for site in sites:
        model.get_submodule(site.name).register_forward_hook(lambda *_, name=site.name: ran.append(name))
    model(**call)
    assert ran == [s.name for s in sites]


def test_only_cross_attention_makes_both_sites_of_a_block_cross():
    kinds = [s.kind for s in FAMILY.sites(unet.unet(**ONLY_CROSS), "")]
    assert kinds == ["cross", "cross", "self", *["cross"] * 5]  # not in the middle


def test_processors_with_other_bits_are_not_stock():
    model = unet.unet()
    model.set_attention_slice("max")
    assert {type(p).__name__ for p in model.attn_processors.values()} == {"SlicedAttnProcessor"}
    model.set_default_attn_processor()
    assert {type(p).__name__ for p in model.attn_processors.values()} == {"AttnProcessor"}
    assert not FAMILY.stock & {"SlicedAttnProcessor", "AttnProcessor"}


@pytest.mark.parametrize(("height", "width"), [(8, 12), (9, 7)])
def test_each_site_knows_its_own_grid(height, width):
    model, call = unet.unet(), unet.inputs(2, height=height, width=width, text=7)
    n = height * width
    assert FAMILY.layout(model, call) == Layout((1, height, width), slice(0, 0), slice(0, n))
    for site, (q, k, _, mask, layout) in seen_by_cores(model, FAMILY, call, reads_layout=True).items():
        coarse = site.name.startswith("mid_block")
        h, w = ((height + 1) // 2, (width + 1) // 2) if coarse else (height, width)
        assert layout == Layout((1, h, w), slice(0, 0), slice(0, h * w))
        assert q.shape == (2, h * w, site.heads, site.head_dim)
        assert k.shape == (2, h * w if site.kind == "self" else 7, site.heads, site.head_dim)
        assert mask is None


def test_cores_get_the_mask_of_scaled_dot_product_attention():
    call = unet.inputs(2, sdxl=True)
    call["encoder_attention_mask"] = torch.tensor([[1, 1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1, 0]])
    for site, (*_, mask, _) in seen_by_cores(unet.unet(sdxl=True), FAMILY, call).items():
        if site.kind == "self":
            assert mask is None
        else:
            assert mask.shape == (2, site.heads, 1, 7)
            assert torch.equal(mask[:, 0, 0] == 0, call["encoder_attention_mask"].bool())


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 5))
def test_at_level_halves_and_rounds_up(height, width, level):
    h, w = -(-height // 2**level), -(-width // 2**level)
    full = Layout((1, height, width), slice(0, 0), slice(0, height * width))
    found = at_level(full, h * w)
    assert found == Layout((1, h, w), slice(0, 0), slice(0, h * w))
    assert found.tokens == h * w


@pytest.mark.parametrize("tokens", [95, 97, 25, 23])
def test_at_level_admits_that_no_level_fits(tokens):
    assert at_level(Layout((1, 8, 12), slice(0, 0), slice(0, 96)), tokens) is None


@pytest.mark.parametrize(
    "timestep", [7, 7.5, torch.tensor(7), torch.tensor([7, 7, 7])], ids=["int", "float", "scalar", "rows"]
)
@either
def test_call_facts(sdxl, timestep):
    model, call = unet.unet(sdxl), unet.inputs(3, sdxl=sdxl) | {"timestep": timestep}
    assert FAMILY.timestep(call) is timestep
    row = take_rows(call, 3, slice(1, 2), FAMILY.unbatched)
    alike(outputs(model, row), outputs(model, call)[1:2])


@torch.no_grad()
def test_cores_that_read_the_layout_compile():
    model, call = unet.unet(), unet.inputs(2)
    for processor in install(model, FAMILY, call):
        dense, processor.reads_layout = processor.core, True
        processor.core = lambda q, k, v, mask, layout, inner=dense: (
            inner(q, k, v, mask, layout) * layout.tokens
        )
    eager = outputs(model, call)
    torch.compiler.reset()
    model.compile_repeated_blocks(fullgraph=True, backend="eager")
    assert torch.equal(eager, outputs(model, call))
