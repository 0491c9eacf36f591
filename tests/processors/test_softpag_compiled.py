"""SoftPAG in compiled blocks: few graphs, and none for a new size."""

import pytest
import torch

import diffusers_ext as dx

from ..tiny_models import flux, sd3, unet, wan
from .test_softpag import LAYER

IDENTITY = [(name, "identity") for name in ("wan", "flux", "sd3")]
OTHERS = [
    ("wan", "max"),
    ("wan", "uniform"),
    ("sd3", "segment_mean"),
    ("wan", "temperature"),
    ("sd3", "shuffle"),
]


def slowly(cases):
    return [pytest.param(*case, marks=pytest.mark.slow) for case in cases]


# The fast tests compile each family with one method or the other, here or in test_nag_compiled.py.
@pytest.mark.parametrize("name, mode", [*slowly(IDENTITY[:2]), IDENTITY[2], OTHERS[0], *slowly(OTHERS[1:])])
def test_compiles_fullgraph_with_few_graphs(name, mode):
    """There are two graphs more than without us: touched blocks, plain and perturbed."""
    tiny = {"wan": wan, "flux": flux, "sd3": sd3}[name]
    deep = {
        "wan": dict(num_layers=12),
        "flux": dict(num_layers=8, num_single_layers=8),
        "sd3": dict(num_layers=12),
    }
    model, call = tiny.transformer(**deep[name]), tiny.inputs(1)
    layers = [
        s.name for s in dx.summary(model).denoisers[0][3] if s.kind != "cross" and "single" not in s.name
    ][2:10]
    method = dx.SoftPAG(heads={layer: [0, 1] for layer in layers}, strength=0.5, perturbation=mode)
    with dx.apply(model, method):
        eager = model(**call)[0]
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    with (
        dx.apply(model, method),
        torch._dynamo.config.patch(recompile_limit=8, fail_on_recompile_limit_hit=True),
    ):
        if getattr(model, "_repeated_blocks", None):
            model.compile_repeated_blocks(fullgraph=True, backend="eager")
        else:
            for block in model.transformer_blocks:
                block.compile(fullgraph=True, backend="eager")
        compiled = [model(**call | {"timestep": call["timestep"] * f})[0] for f in (1.0, 0.9, 0.8)]
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    torch.testing.assert_close(compiled[0], eager, rtol=1e-5, atol=1e-5)
    stock = {"wan": 1, "flux": 3, "sd3": 2}[
        name
    ]  # Flux: double, first single, single; SD3: the last block is its own
    assert graphs <= stock + 2
    torch._dynamo.reset()


# Processors of FLUX.1 meet new sizes in test_nag_compiled.py.
@pytest.mark.parametrize(
    "name, mode",
    [
        ("unet", "identity"),
        *slowly([*IDENTITY, *OTHERS, ("unet", "shuffle")]),
    ],
)
def test_new_image_sizes_cost_no_more_graphs_than_without_us(name, mode):
    """Six sizes stay within torch's recompile limit: no graph depends on the number of tokens."""
    tiny = {"wan": wan, "flux": flux, "sd3": sd3, "unet": unet}[name]
    model = unet.unet() if name == "unet" else tiny.transformer()
    layer = "mid_block.attentions.0.transformer_blocks.0.attn1" if name == "unet" else None
    layer = layer or {"wan": "blocks.1.attn1"}.get(name, LAYER)
    blocks = [m for m in model.modules() if type(m).__name__.endswith("TransformerBlock")]
    torch._dynamo.reset()
    with dx.apply(model, dx.SoftPAG(heads={layer: None}, strength=1.0, perturbation=mode)) as session:
        for block in blocks:
            block.compile(fullgraph=True, backend="eager")
        with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
            for height in (4, 6, 8, 10, 12, 14):
                model(**tiny.inputs(1, height=height))
    assert session.report().extra_passes == 6
    torch._dynamo.reset()
