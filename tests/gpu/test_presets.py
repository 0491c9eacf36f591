"""Settings of the presets at the sizes of the presets, on narrow slices of the models: sampled rows against
explicit masks. On a CPU the image models, at sizes that a CPU can do.
"""

from dataclasses import replace

import pytest
import torch

import diffusers_ext as dx
from bench.timing.block_cases import Case, cases, settings
from bench.timing.block_checks import RecordCalls, call_error
from bench.timing.slices import SLICES

from .. import needs
from .devices import backend

SMALL = {"height": 512, "width": 512, "text": 13}
HERE = [Case(model, SMALL, settings(model, name)) for model, name in (
    ("flux.1", "clear"), ("flux.1", "gna"), ("flux.1", "rectified"), ("sd3.5", "gna")
)]  # fmt: skip
EVERY = [("cpu", case) for case in HERE] + [pytest.param("cuda", c, marks=needs.gpu) for c in cases()]


@pytest.mark.parametrize("device, case", EVERY, ids=lambda x: x if isinstance(x, str) else x.name)
@torch.no_grad()
def test_rows_of_every_site(device, case):
    dtype, limit = (torch.float32, 1e-5) if device == "cpu" else (torch.bfloat16, 1.6e-2)
    method = replace(case.method, backend=backend(device))
    part = SLICES[case.model]
    model = part.build(True, device, dtype)
    recorder = RecordCalls()
    with dx.apply(model, method, recorder) as session:
        out = model(**part.call(model, case.grid, device, dtype))[0]
        sites = [s for s in session.report().sites if method.name in s.methods]
        assert sites and {s.backend for s in sites} == {backend(device)}
        assert all(0 < s.density < 0.99 for s in sites)
        cores = {site.name: core for site, core in session.cores(method).items()}
        assert recorder.kept.keys() == cores.keys()
        assert all(call_error(cores[name], call) < limit for name, call in recorder.kept.items())
    assert out.isfinite().all()
