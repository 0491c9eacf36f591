"""Test one picture of many that cannot be made: it fails with a fitting sentence, and the others go on."""

import numpy as np
import pytest
import torch

from diffusers_ext import SoftPAG
from diffusers_ext.errors import ConflictError
from diffusers_ext.sampling.failures import BrokenImageError, bad_weight, hits_all, out_of_memory, reason_of
from diffusers_ext.sampling.generate import applied, generate
from diffusers_ext.sampling.items import Item
from diffusers_ext.sampling.progress import Progress
from tests import picture_faults as faults
from tests.tiny_models import wan

CALL = {"height": 16, "width": 16, "num_inference_steps": 1, "guidance_scale": 1.0, "max_sequence_length": 16}
CLIP = {"height": 32, "width": 32, "num_frames": 5, "num_inference_steps": 1, "max_sequence_length": 24}
ITEMS = [Item(f"a red circle {i}", i) for i in range(5)]


def run(pipe, items=ITEMS, batch=3, call=CALL):
    """Return pictures by seed, the progress, and what it printed."""
    said = []
    with Progress(len(items), say=said.append) as progress:
        made = {
            p.item.seed: np.asarray(p.image) for g in generate(pipe, items, call, batch, progress) for p in g
        }
    return made, progress, said


@pytest.mark.parametrize(
    "act, words",
    [
        (
            faults.out_of_memory,
            "out of memory for one image of 16 x 16 px in float32 (prompt 'a red circle 1', seed 1); ask ",
        ),
        (faults.not_a_number, "returned NaN or infinity (prompt 'a red circle 1', seed 1); try another seed"),
        (
            faults.any_error,
            "RuntimeError: mat1 and mat2 shapes cannot be multiplied (3x4 and 5x6) (prompt 'a",
        ),
    ],
)
@pytest.mark.parametrize("batch", [1, 3])
def test_one_bad_picture_does_not_take_the_others_with_it(pipe, act, words, batch):
    plain = {p.item.seed: np.asarray(p.image) for g in generate(pipe, ITEMS, CALL, batch) for p in g}
    faults.Fault(pipe, [1], act)
    made, progress, said = run(pipe, batch=batch)
    assert made.keys() == {0, 2, 3, 4}
    assert all(np.abs(made[s].astype(int) - plain[s].astype(int)).max() <= 1 for s in made)
    (failed,) = progress.failures
    assert failed.item == ITEMS[1] and words in failed.reason and failed.reason.count("; ") == 1
    assert said[-1] == f"failed: {failed.reason}" and "float32, " not in failed.reason


def test_clips_fail_one_by_one_too():
    pipe = wan.pipeline()
    faults.Fault(pipe, [0], faults.not_a_number)
    made, progress, _ = run(pipe, ITEMS[:2], 2, CLIP)
    assert made.keys() == {1}
    assert [f.item.seed for f in progress.failures] == [0]


def test_a_batch_that_does_not_fit_is_made_one_at_a_time_from_then_on(pipe):
    fault = faults.Fault(
        pipe, range(9), lambda x, rows: faults.out_of_memory(x, rows) if len(x) > 1 else None
    )
    made, progress, said = run(pipe)
    assert made.keys() == set(range(5)) and not progress.failures
    assert said == ["3 images at a time do not fit into memory; going on with one at a time"]
    assert fault.calls == 1 + 5, "no second batch was tried"


def test_the_advice_fits_the_dtype_and_what_is_on(pipe):
    def reason(**call):
        with pytest.raises(BrokenImageError) as caught:
            next(generate(pipe, ITEMS[:1], CALL | call))
        return str(caught.value)

    faults.Fault(pipe, [0], faults.not_a_number)
    assert reason(guidance_scale=1.0).endswith("; try another seed")
    assert reason(guidance_scale=7.0).endswith("; try a smaller --guidance-scale, or another seed")
    with applied(pipe, [SoftPAG()]):
        assert reason(guidance_scale=1.0).endswith("; try a smaller scale of the method, or another seed")
    pipe.to(torch.bfloat16)
    assert reason().endswith("; try --dtype float32")
    memory = reason_of(torch.OutOfMemoryError("x"), pipe, {"height": 64, "width": 32}, "seed 0")
    assert memory == "out of memory for one image of 64 x 32 px in bfloat16 (seed 0); ask for a smaller size"


def test_weights_with_nan_are_named_and_nothing_else_is_tried(pipe):
    with torch.no_grad():
        pipe.transformer.proj_out.bias[1] = float("nan")
    assert bad_weight(pipe) == "transformer.proj_out.bias"
    with pytest.raises(
        BrokenImageError, match=r"NaN or infinity, first in transformer\.proj_out\.bias; fetch"
    ):
        run(pipe, batch=1)


@pytest.mark.parametrize("error", [ConflictError, KeyboardInterrupt])
def test_what_hits_every_picture_is_raised_at_once(pipe, error):
    def act(x, rows):
        raise error("two owners")

    fault = faults.Fault(pipe, [0], act)
    with pytest.raises(error):
        run(pipe, batch=1)
    assert fault.calls == 1


def test_what_the_host_refuses_is_raised_at_once(pipe):
    with pytest.raises(TypeError, match="unexpected keyword"):
        run(pipe, call=CALL | {"colour": "red"})
    with pytest.raises(ValueError, match="divisible"):
        run(pipe, call=CALL | {"height": 33})
    assert hits_all(torch.AcceleratorError("CUDA error: an illegal memory access was encountered"))
    assert not hits_all(torch.AcceleratorError("CUDA error: out of memory"))


def test_a_run_of_which_nothing_comes_is_given_up(pipe):
    fault = faults.Fault(pipe, range(9), faults.out_of_memory)
    made, progress, _ = run(pipe, [Item("a", i) for i in range(9)], batch=1)
    assert not made and fault.calls == 5 and len(progress.failures) == 9
    assert (
        "not tried" in progress.failures[-1].reason
        and "the first 5 failed alike" in progress.failures[-1].reason
    )


def test_memory_of_every_allocator_is_known():
    with pytest.raises(RuntimeError) as cpu:
        torch.empty(2**50)
    with pytest.raises(MemoryError) as numpy:
        np.empty(2**55)
    for error in (
        cpu.value,
        numpy.value,
        torch.OutOfMemoryError(""),
        RuntimeError("MPS backend out of memory"),
    ):
        assert out_of_memory(error)
    assert not out_of_memory(ValueError("out of memory")) and not out_of_memory(RuntimeError("shape"))


def test_the_cause_is_shown_where_it_was_asked_for(pipe):
    faults.Fault(pipe, [0], faults.any_error)
    said = []
    with Progress(1, say=said.append, debug=True) as progress:
        assert not list(generate(pipe, ITEMS[:1], CALL, 1, progress))
    assert "Traceback" in said[0] and "any_error" in said[0]
