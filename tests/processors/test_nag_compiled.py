"""NAG in compiled blocks: few graphs, and none for a new size."""

import pytest
import torch

import diffusers_ext as dx
from diffusers_ext.families.denoisers import denoisers

from ..tiny_models import flux, sd3, unet, wan

TINY = {"wan": wan, "flux": flux, "sd3": sd3, "unet": unet}
STOCK = {
    "wan": 1,
    "flux": 3,
    "sd3": 2,
}  # FLUX.1: double, first single, single; SD3: the last block is its own


def prepared(name, **config):
    """A pipeline, its denoiser, and its blocks."""
    pipe = TINY[name].pipeline(**config)
    (model,) = denoisers(pipe).values()
    return pipe, model, [m for m in model.modules() if type(m).__name__.endswith("TransformerBlock")]


def text(name, pipe):
    """The length of the prompts that a pipeline makes, and the text of the tiny calls."""
    clip = {"unet": lambda: pipe.tokenizer.model_max_length, "sd3": lambda: pipe.tokenizer_max_length + 16}
    return clip.get(name, lambda: 16)()


def slowly(*names):
    return [pytest.param(name, marks=pytest.mark.slow) for name in names]


# The fast tests compile each family with one method or the other, here or in test_softpag_compiled.py.
@pytest.mark.parametrize("name", ["wan", *slowly("sd3", "flux")])
@torch.no_grad()
def test_compiles_fullgraph_with_few_graphs(name):
    """Calls with a second text and without have graphs of their own; a size that varies costs one more."""
    deep = {"flux": dict(num_layers=8, num_single_layers=8)}.get(name, dict(num_layers=12))
    pipe, model, blocks = prepared(name, **deep)
    call = TINY[name].inputs(1, text=text(name, pipe))
    blocks = blocks or list(model.blocks)
    steps = [call | {"timestep": call["timestep"] * f} for f in (1.0, 0.9)]
    with dx.apply(pipe, dx.NAG("green"), cfg="two_calls"):
        eager = [model(**step)[0] for step in steps for _ in range(2)]
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    with (
        dx.apply(pipe, dx.NAG("green"), cfg="two_calls") as session,
        torch._dynamo.config.patch(recompile_limit=8, fail_on_recompile_limit_hit=True),
    ):
        for block in blocks:
            block.compile(fullgraph=True, backend="eager")
        compiled = [model(**step)[0] for step in steps for _ in range(2)]
        assert session.report().second_texts == 2
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 2 * STOCK[name] + 1
    for got, wanted in zip(compiled, eager, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
    torch._dynamo.reset()


@pytest.mark.parametrize("name", ["flux", *slowly("unet", "wan", "sd3")])
@torch.no_grad()
def test_new_image_sizes_stay_within_the_limit_of_graphs(name):
    pipe, model, blocks = prepared(name)
    torch._dynamo.reset()
    with dx.apply(pipe, dx.NAG("green"), cfg="none") as session:
        for block in blocks or model.blocks:
            block.compile(fullgraph=True, backend="eager")
        with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
            for height in (4, 6, 8, 10, 12, 14):
                model(**TINY[name].inputs(1, height=height, text=text(name, pipe)))
    assert session.report().second_texts == 6
    torch._dynamo.reset()
