"""A bank of references: they run alone, and scenes of later calls see them."""

import pytest
import torch

import diffusers_ext as dx
from diffusers_ext.processors.ir_cores import link
from diffusers_ext.processors.reference_bank import ReferenceBank

from ..close import alike, far_apart
from ..hosts import host
from .ir_runs import BOXES, PROMPTS, guided, pictures

SLOWLY = [pytest.param(name, marks=pytest.mark.slow) for name in ("sdxl", "flux-dev")]


@pytest.mark.parametrize("name", ["sd", "sd3", "sd3.5", "flux", *SLOWLY])
@guided
def test_a_bank_gives_the_scene_of_one_call(name, cfg):
    """References run alone, then a scene with both of them, and one with the second alone."""
    tiny = host(name)
    pipe = tiny.build()
    draw = torch.Generator().manual_seed(1)
    noise = torch.randn(1, *tiny.run(pipe, steps=1).shape[1:], generator=draw)

    def run(method, prompts, bank=None):
        with dx.apply(pipe, method) as session:
            if bank is not None:
                link(session.cores(method), bank)
            start = noise.repeat(len(prompts), *[1] * (noise.ndim - 1))
            return pictures(tiny, pipe, prompts, cfg, latents=start, generator=None)

    settings = dict(start_layer=0.0, ref_bias=1.0, start=0.0)
    both = dx.IRDiffusion(**BOXES, **settings)
    bank = ReferenceBank(numbers=(0, 1))
    nobody = dx.IRDiffusion(BOXES["reference_masks"], [None, None], **settings)
    references = run(nobody, PROMPTS[:2], bank)
    assert torch.equal(references, run(nobody, PROMPTS[:2], ReferenceBank(numbers=(0, 1))))
    wanted = run(both, PROMPTS)
    alike(references, wanted[:2])
    got = run(both, PROMPTS[2:], bank.reader([0, 1]))
    alike(got, wanted[2:])
    one = dx.IRDiffusion(BOXES["reference_masks"][1:], BOXES["scene_masks"][1:], **settings)
    alone = run(one, PROMPTS[2:], bank.reader([1]))
    alike(alone, run(one, PROMPTS[1:])[1:])
    assert far_apart(got, alone) and far_apart(got, run(both, PROMPTS[2:], bank.reader([1, 0])))


def test_a_bank_of_steps_that_begin_late():
    tiny = host("sd")
    pipe, bank = tiny.build(), ReferenceBank(numbers=(0, 1))
    method = dx.IRDiffusion(**BOXES, start_layer=0.0, start=0.5)
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1))

    def run(prompts, bank=None):
        with dx.apply(pipe, method) as session:
            if bank is not None:
                link(session.cores(method), bank)
            start = noise.repeat(len(prompts), 1, 1, 1)
            return pictures(tiny, pipe, prompts, steps=4, latents=start, generator=None)

    run(PROMPTS[:2], bank)
    assert {place for _, place, _ in bank.kept} == {"text", 2, 3}
    alike(run(PROMPTS[2:], bank.reader([0, 1])), run(PROMPTS)[2:])
