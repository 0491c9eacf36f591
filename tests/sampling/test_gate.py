"""The gate runs living candidates only, a few at a time, counts what runs, and leaves nothing behind."""

import pytest
import torch

import diffusers_ext as dx
from diffusers_ext.errors import MethodError, UnsupportedError
from diffusers_ext.families.denoisers import denoisers
from diffusers_ext.sampling.gate import Gate
from diffusers_ext.sampling.host_call import HostCall

from ..close import alike
from ..hosts import built, every_call, host, processors
from ..tiny_models import unet

STEPS = 3


def asked(host, **more):
    return host.size | host.extra | host.guided | {"num_inference_steps": STEPS} | more


def counted(pipe, host):
    """Rows that reach an attention module, and so the denoiser."""
    rows = []
    for model in denoisers(pipe).values():
        model.get_submodule(host.layer).register_forward_pre_hook(
            lambda module, args, kwargs: rows.append(len(args[0] if args else kwargs["hidden_states"])),
            with_kwargs=True,
        )
    return rows


def run(host, gate, pipe=None, drop=None, n=4):
    pipe = pipe or host.build()
    call = HostCall(pipe, "a red circle", torch.Generator().manual_seed(0), **asked(host))

    def on_step(step, latents):
        if drop is not None and step == 0:
            gate.alive = drop

    with torch.no_grad(), gate.on(call.pipe):
        return call.run(call.draw(n), on_step)


@every_call
def test_all_alive_is_the_plain_batch(host):
    pipe, gate = host.build(), Gate(4)
    made = run(host, gate, pipe)
    call = HostCall(pipe, "a red circle", torch.Generator().manual_seed(0), **asked(host))
    assert torch.equal(made, call.run(call.draw(4)))
    # Pipelines with a cache context keep an empty registry.
    assert not any(m._diffusers_hook.hooks for m in denoisers(pipe).values() if hasattr(m, "_diffusers_hook"))


@every_call
def test_survivors_are_those_of_the_run_without_drops(host):
    pipe = host.build()
    wanted = run(host, Gate(4), pipe)
    rows, gate = counted(pipe, host), Gate(4)
    found = run(host, gate, pipe, drop=[1, 3])
    alike(found[[1, 3]], wanted[[1, 3]])
    assert gate.evaluations == sum(rows)
    each = sum(gate.spent) // 8  # four candidates in the first of three steps, two in the others
    assert gate.spent == [each, STEPS * each, each, STEPS * each]


# One batch and two calls a step, two denoisers, a picture for each row, and a schedule in halves.
@pytest.mark.parametrize("name", ["sd", "flux", "wan2.2", "skyreels", "mochi"])
def test_the_size_of_groups_does_not_matter(name):
    host, pipe = built(name)
    wanted = run(host, Gate(4), pipe)
    for size in (1, 3):
        gate = Gate(4, size)
        alike(run(host, gate, pipe), wanted)
        assert gate.evaluations == Gate(4).evaluations + sum(gate.spent)


@every_call
def test_guidance_below_the_gate_is_that_of_the_plain_call_and_counts(host):
    pipe = host.build()
    plain = run(host, Gate(4), pipe)
    rows = counted(pipe, host)
    with dx.apply(pipe, dx.SoftPAG(heads={host.layer: [0, 2]}, scale=2.0)):
        wanted = run(host, Gate(4), pipe)
        rows.clear()
        gate = Gate(4, 3)
        found = run(host, gate, pipe, drop=[0, 2, 3])
    assert gate.evaluations == sum(rows)
    alike(found[[0, 2, 3]], wanted[[0, 2, 3]])
    assert not torch.equal(plain, wanted)


@pytest.mark.parametrize("name", ["sd3", "flux", "wan"])
def test_sparse_attention_below_the_gate_is_that_of_the_plain_call(name):
    found, pipe = built(name)
    method = dx.Radial(backend="reference") if found.video else dx.CLEAR(radius=2, backend="reference")
    with dx.apply(pipe, method):
        wanted = run(found, Gate(4), pipe)
        alike(run(found, Gate(4, 1), pipe, drop=[2])[[2]], wanted[[2]])


def test_methods_know_which_candidates_a_call_holds():
    found, pipe = built("sd3")
    seen = []
    with dx.apply(pipe, dx.SoftPAG(heads={found.layer: [0]}, scale=2.0)) as session:
        model = pipe.transformer
        model.norm_out.register_forward_hook(lambda *_: seen.append(session.run.rows))
        run(found, Gate(4, 3), pipe, drop=[1, 2])
        assert session.run.rows is None
    # A call and its extra pass each, in groups.
    assert seen == [(0, 1, 2)] * 2 + [(3,)] * 2 + [(1, 2)] * 4


def test_another_pipeline_on_the_same_denoiser_passes():
    found, pipe = built("sd")
    gate = Gate(4)
    gate.alive = [0]
    call = HostCall(pipe, "a", **asked(found))
    with gate.on(call.pipe):
        other = found.run(pipe, cfg=True)
    assert torch.equal(other, found.run(pipe, cfg=True))
    assert gate.evaluations == 0


def test_the_gate_goes_away_after_an_error():
    found, pipe = built("sd")
    before = processors(pipe.unet)

    def stop(rows):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(found, Gate(4, on_spend=stop), pipe)
    assert not hasattr(pipe.unet, "_diffusers_hook")
    assert processors(pipe.unet) == before


def test_rows_that_are_no_multiple_of_the_candidates_are_refused():
    found, pipe = built("sd")
    with pytest.raises(
        UnsupportedError, match=r"each of its 3 candidates, but StableDiffusionPipeline gave .* 8"
    ):
        run(found, Gate(3), pipe)


@pytest.mark.parametrize("numbers", [[], [4], [-1, 2]])
def test_alive_names_some_candidates(numbers):
    gate = Gate(4)
    with pytest.raises(MethodError, match="numbered from 0 to 3 and one or more stay alive"):
        gate.alive = numbers


def test_micro_batch_is_one_or_more():
    with pytest.raises(MethodError, match="1 or more, got 0; leave it out"):
        Gate(4, 0)


def test_two_searches_share_a_denoiser():
    pipe = unet.pipeline()
    found = host("sd")
    outer = HostCall(pipe, "a", torch.Generator().manual_seed(0), **asked(found))
    gate = Gate(2)

    def on_step(step, latents):
        if step == 0:
            inner = Gate(4)
            run(found, inner, pipe)
            assert inner.evaluations == 4 * 2 * STEPS

    with torch.no_grad(), gate.on(outer.pipe):
        outer.run(outer.draw(2), on_step)
    assert gate.evaluations == 2 * 2 * STEPS
