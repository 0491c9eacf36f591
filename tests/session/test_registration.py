"""Hooks on a denoiser come and go in any order, ours and those of diffusers, and the others go on to act."""

import itertools

import pytest
import torch
from diffusers import FasterCacheConfig
from diffusers.hooks.hooks import HookRegistry, ModelHook

import diffusers_ext as dx
from diffusers_ext.session.registration import install

from ..hosts import built
from ..tiny_models import sd3


class Adds(ModelHook):
    """Adds a power of two to what it calls, so that the sum says which hooks acted."""

    def __init__(self, number):
        super().__init__()
        self.amount = 2.0**number

    def new_forward(self, module, *args, **kwargs):
        return (self.fn_ref.original_forward(*args, **kwargs)[0] + self.amount,)


def put(model, number, foreign):
    """Put a hook on as we do, or as diffusers does; return what takes it off."""
    if not foreign:
        return install(model, Adds(number), f"hook {number}")
    registry = HookRegistry.check_if_exists_or_initialize(model)
    registry.register_hook(Adds(number), f"hook {number}")
    return lambda: registry.remove_hook(f"hook {number}", recurse=False)


@pytest.mark.parametrize("foreign", [None, 0, 1, 2])
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
def test_hooks_come_off_in_any_order(order, foreign):
    model, call = sd3.transformer(), sd3.inputs()
    with torch.no_grad():
        plain = model(**call)[0]
        undo = [put(model, number, foreign == number) for number in range(3)]
        left = {0, 1, 2}
        for number in order:
            assert torch.allclose(
                model(**call)[0] - plain, torch.tensor(sum(2.0**n for n in left)), atol=1e-4
            )
            undo[number]()
            left.remove(number)
        assert torch.equal(model(**call)[0], plain)
    if foreign is None:
        assert "_diffusers_hook" not in vars(model) and "forward" not in vars(model)


def cache():
    return FasterCacheConfig(
        spatial_attention_block_skip_range=2,
        spatial_attention_timestep_skip_range=(-1, 2000),
        current_timestep_callback=lambda: 500,
        tensor_format="BCFHW",
        is_guidance_distilled=True,
    )


def sparse():
    return dx.GNA(window=(2, 3, 3), backend="reference", dense_steps=0)


def test_a_cache_that_ends_under_a_session_does_not_take_the_methods_with_it():
    host, pipe = built("wan")
    plain = host.run(pipe)
    with dx.apply(pipe, sparse()):
        wanted = host.run(pipe)
    pipe.transformer.enable_cache(cache())
    with dx.apply(pipe, sparse()) as session:
        pipe.transformer.disable_cache()
        assert torch.equal(host.run(pipe), wanted) and not torch.equal(wanted, plain)
        assert session.report().denoiser_calls == 3
    assert torch.equal(host.run(pipe), plain)
