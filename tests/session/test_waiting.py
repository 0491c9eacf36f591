"""After the first step no call of a denoiser asks a tensor for its value, which would wait for a GPU."""

import sys
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler
from torch.overrides import TorchFunctionMode

import diffusers_ext as dx
from diffusers_ext.core import Layout
from diffusers_ext.families.flux import FluxFamily
from diffusers_ext.session.layouts import LayoutReader

from ..hosts import HOSTS, built
from ..tiny_models import flux

PACKAGE = Path(dx.__file__).parent
NAMES = "item tolist cpu numpy nonzero equal unique __bool__ __float__ __int__ __index__"
ASKING = {getattr(torch.Tensor, name) for name in NAMES.split()} | {torch.equal, torch.nonzero, torch.unique}
FREE = {
    "kernels/block_sparse/reference.py": "the back-end of CPUs, which reads lists of blocks",
    "kernels/block_sparse/cpu_rows.py": "the same",
    "processors/perturbations.py": "strengths of heads are on the CPU",
    "families/mochi.py": "diffusers asks for the end of each prompt there, more often than we do",
}


class Waits(TorchFunctionMode):
    """Notes where code of the package asks a tensor for values while `on`."""

    def __init__(self):
        super().__init__()
        self.on = False
        self.places = set()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if self.on and func in ASKING:
            self.places |= _callers() - FREE.keys()
        return func(*args, **(kwargs or {}))


def _callers():
    """The file of the package that asked, unless another package did on the way."""
    frame = sys._getframe(2)
    while frame is not None and "/torch/" in frame.f_code.co_filename:
        frame = frame.f_back
    path = Path(frame.f_code.co_filename)
    return {path.relative_to(PACKAGE).as_posix()} if path.is_relative_to(PACKAGE) else set()


def places(tiny, pipe, **call):
    """Where the second step of a run asks for values."""
    with Waits() as waits:

        def step_ends(pipe, step, timestep, tensors):
            waits.on = True
            return tensors

        tiny.run(pipe, steps=2, callback_on_step_end=step_ends, **call)
    return waits.places


METHODS = {
    "softpag": lambda tiny: (dx.SoftPAG(heads={tiny.layer: None}),),
    "nag": lambda tiny: (dx.NAG("red"),),
    "sparse": lambda tiny: (dx.GNA((2, 2, 2) if tiny.video else (1, 2, 2), backend="reference"),),
    "sparse that stays dense": lambda tiny: (dx.Radial(dense_steps=0) if tiny.video else dx.CLEAR(2),),
    "rectified": lambda tiny: (dx.RectifiedSparse(keep=0.5, backend="reference"),),
}
COUNTING = [h for h in HOSTS if h.name in ("sd3", "flux", "wan2.2", "hunyuan-video", "mochi")]


@pytest.mark.parametrize("tiny", COUNTING, ids=lambda tiny: tiny.name)
def test_no_method_waits_after_the_first_step(tiny):
    """The second run of a session; the first makes plans, of all denoisers."""
    pipe = tiny.build()
    for name, methods in METHODS.items():
        methods = methods(tiny)
        if name == "nag" and tiny.name in ("hunyuan-video", "mochi"):
            continue  # their text is masked, which NAG refuses
        with dx.apply(pipe, *methods):
            tiny.run(pipe, cfg=True, steps=2)
            assert not places(tiny, pipe, cfg=True), name


@pytest.mark.parametrize(
    "kind, asks", [(DDIMScheduler, {"session/steps.py"}), (EulerDiscreteScheduler, set())]
)
def test_a_timestep_is_looked_up_where_a_scheduler_keeps_no_count(kind, asks):
    """Such schedulers look it up themselves, so the wait is theirs."""
    tiny, pipe = built("sd")
    pipe.scheduler = kind.from_config(pipe.scheduler.config)
    with dx.apply(pipe):
        assert places(tiny, pipe) == asks


def test_the_check_sees_a_family_that_asks(monkeypatch):
    tiny, pipe = built("flux")
    monkeypatch.setattr(FluxFamily, "layout_values", lambda self, call: None)
    with dx.apply(pipe):
        assert places(tiny, pipe) == {"families/flux.py"}


class Counted(FluxFamily):
    """FLUX that counts how often ids are read."""

    def __init__(self):
        self.read = 0

    def layout(self, model, call):
        self.read += 1
        return super().layout(model, call)


def test_position_ids_are_read_again_where_they_may_differ():
    family, call = Counted(), flux.inputs(1)
    reader, ids = LayoutReader(family), call["img_ids"]
    first = reader.read(None, call)
    assert reader.read(None, dict(call)) is first and family.read == 1
    assert reader.read(None, call | {"img_ids": ids.clone()}) is first, "equal layouts are one object"
    assert reader.read(None, call) is first and family.read == 3
    longer = torch.cat([call["encoder_hidden_states"]] * 2, dim=1)
    text = reader.read(None, call | {"encoder_hidden_states": longer}).text
    assert text.stop == 2 * first.text.stop and family.read == 4
    assert reader.read(None, call) == first
    ids[0] += 7  # a grid no more
    assert not reader.read(None, call).raster
    with torch.inference_mode():
        inside = call | {"img_ids": ids.clone()}
        before = family.read
        reader.read(None, inside), reader.read(None, inside)
    assert family.read == before + 2, "tensors of inference mode do not say whether they were written to"


def test_layouts_that_differ_in_their_words_alone_are_two():
    layouts = [Layout((1, 2, 2), slice(0, 0), slice(0, 4), cross_text=slice(0, n)) for n in (3, 5)]
    family = FluxFamily()
    reader = LayoutReader(family)
    assert [reader._kept(layout).cross_text.stop for layout in (*layouts, layouts[0])] == [3, 5, 3]
