"""`dx.staged` with pooled tokens and the NTK factor makes the pictures of a CPU, and restores everything."""

import numpy as np
import pytest
import torch

import diffusers_ext as dx
from tests.hosts import host, processors

from .devices import backend, every_device

APART = 2.0  # mean difference of 8-bit pixels; convolutions of cuDNN round to tf32


def pictures(device, name, **how):
    pipe = host(name).build().to(device)
    before = processors(pipe.transformer)
    method = dx.CLEAR(radius=2, downsample=2, train_tokens=60, backend=backend(device))
    call = host(name).extra | {"num_inference_steps": 2, "generator": torch.Generator().manual_seed(0)}
    found = dx.staged(pipe, "a red circle", [(32, 48), (48, 64)], methods=[method], **how, **call)
    after = processors(pipe.transformer)
    assert before.keys() == after.keys() and all(after[name] is p for name, p in before.items())
    return found


@pytest.mark.parametrize("name, how", [("flux", {"ntk_factor": 10.0, "shift": 3.0}), ("sd3", {})])
@every_device
def test_two_stages(device, name, how):
    found = pictures(device, name, **how)
    assert [stage[0].size for stage in found.stages] == [(48, 32), (64, 48)]
    for report in found.reports:
        assert {site.backend for site in report.sites} == {backend(device)}
    wanted = pictures("cpu", name, **how)
    for ours, theirs in zip(found.stages, wanted.stages, strict=True):
        ours, theirs = (np.asarray(x[0], dtype=float) for x in (ours, theirs))
        assert theirs.std() > 1 and abs(ours - theirs).mean() < APART
