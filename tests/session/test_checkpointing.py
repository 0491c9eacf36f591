"""Gradient checkpointing under a session: blocks run again as in their call, or a sentence says why not."""

import inspect
import threading

import pytest
import torch
from torch.utils.checkpoint import checkpoint

import diffusers_ext as dx
from diffusers_ext.families.denoisers import denoisers

from ..hosts import built

METHODS = {
    "softpag": lambda host: dx.SoftPAG(heads={host.layer: None}, scale=3.0),
    "nag": lambda host: dx.NAG("green"),
    "clear": lambda host: dx.CLEAR(2, backend="reference"),
    "gna": lambda host: dx.GNA(window=(2, 3, 3), backend="reference", dense_steps=0.0),
    "structured": lambda host: dx.StructuredGuidance(),
}
CASES = [
    *[(name, method) for name in ("sd", "sd3", "flux") for method in ("softpag", "nag", "clear")],
    *[(name, method) for name in ("wan", "hunyuan-video") for method in ("softpag", "gna")],
    ("wan", "nag"),
    ("sd", "structured"),
]


def gradients(host, pipe, checkpointed, steps=1, **call):
    """The gradients of the noise, and of the weights of the denoiser, after a call with `steps`."""
    model = next(iter(denoisers(pipe).values())).train().requires_grad_(True)
    (model.enable_gradient_checkpointing if checkpointed else model.disable_gradient_checkpointing)()
    noise = host.run(pipe, steps=1).requires_grad_()
    model.zero_grad()
    asked = host.size | host.extra | host.unguided | {"num_inference_steps": steps} | call
    plain = inspect.unwrap(type(pipe).__call__)
    out = plain(pipe, "a red circle", latents=noise, output_type="latent", return_dict=False, **asked)[0]
    yield
    out.square().mean().backward()
    yield [noise.grad, *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


@pytest.mark.parametrize(("name", "method"), CASES)
def test_gradients_of_a_call_are_the_same(name, method):
    host, pipe = built(name)
    with dx.apply(pipe, METHODS[method](host)):
        _, plain = gradients(host, pipe, False)
        _, again = gradients(host, pipe, True)
    assert len(plain) == len(again) > 10
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))


def test_a_method_that_prepares_nothing_may_run_for_several_steps():
    host, pipe = built("sd")
    with dx.apply(pipe, dx.NAG("green", stop=0.5)):
        _, plain = gradients(host, pipe, False, steps=2)
        _, again = gradients(host, pipe, True, steps=2)
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))


@pytest.mark.parametrize("method", ["softpag", "clear"])
def test_a_call_that_came_in_between_is_named(method):
    host, pipe = built("sd")
    with dx.apply(pipe, METHODS[method](host)):
        run = gradients(host, pipe, True, steps=2)
        next(run)
        with pytest.raises(dx.UnsupportedError, match=f"but {method} has prepared for another call"):
            next(run)


def test_a_session_that_was_closed_in_between_is_named_unless_it_changes_nothing():
    host, pipe = built("sd")
    with dx.apply(pipe, METHODS["structured"](host)):
        run = gradients(host, pipe, True)
        next(run)
    with pytest.raises(
        dx.UnsupportedError, match="but the session with structured was closed; call backward"
    ):
        next(run)
    with dx.apply(pipe):
        run = gradients(host, pipe, True)
        next(run)
    assert torch.isfinite(next(run)[0]).all()


def test_calls_of_other_threads_wait_while_blocks_run_again():
    host, pipe = built("sd")
    free = []

    def try_lock():
        if taken := session.lock.acquire(blocking=False):
            session.lock.release()
        free.append(taken)

    def look(*_):
        thread = threading.Thread(target=try_lock)
        thread.start()
        thread.join()

    with dx.apply(pipe, dx.NAG("green")) as session:
        run = gradients(host, pipe, True)
        next(run)
        pipe.unet.get_submodule(host.layer).register_forward_pre_hook(look)
        next(run)
        try_lock()
    assert free == [False, True]


def test_the_functions_of_the_user_are_called_and_stay():
    host, pipe = built("sd")
    called = []

    def own(block, *args):
        called.append(1)
        return checkpoint(block.__call__, *args, use_reentrant=True)

    with dx.apply(pipe, METHODS["softpag"](host)):
        _, plain = gradients(host, pipe, False)
        pipe.unet.enable_gradient_checkpointing(own)
        held = {m: vars(m).get("_gradient_checkpointing_func") for m in pipe.unet.modules()}
        noise = host.run(pipe, steps=1).requires_grad_()
        call = inspect.unwrap(type(pipe).__call__)
        asked = host.size | host.unguided | {"num_inference_steps": 1, "output_type": "latent"}
        call(pipe, "a red circle", latents=noise, **asked).images.square().mean().backward()
    assert called and torch.allclose(noise.grad, plain[0], rtol=1e-4, atol=1e-7)
    assert held == {m: vars(m).get("_gradient_checkpointing_func") for m in pipe.unet.modules()}
