"""Calls of the denoiser in another order than diffusers makes them, and rows that could be mistaken."""

import pytest
import torch

import diffusers_ext as dx

from ..hosts import HOSTS
from ..tiny_models import flux, hunyuan_video, mochi, sd3, unet, wan
from .test_over_time import fresh, softpag

NAMED = [h for h in HOSTS if not h.one_batch and h.name != "skyreels"]  # whose pipeline names no call
SWAPPED = {"cond": "uncond", "uncond": "cond"}
ORDER = "needs the conditional prediction before the others of a step"


@pytest.mark.parametrize("case", NAMED, ids=lambda case: case.name)
@pytest.mark.parametrize("late", [0, 1], ids=["first step", "second step"])
def test_a_pipeline_that_asks_unconditional_first_is_refused(case, late, monkeypatch):
    """Never answered with what an earlier step or run left: the same timesteps have been run before."""
    pipe, methods = case.build(), [softpag(case)]
    run = dict(cfg=True, steps=late + 1)
    wanted = fresh(case, methods, **run)
    swapping = []

    def swap(model):
        context = model.cache_context
        monkeypatch.setattr(
            model,
            "cache_context",
            lambda name, **facts: context((SWAPPED if swapping else {}).get(name, name), **facts),
        )

    for name in ("transformer", "transformer_2"):
        if getattr(pipe, name, None) is not None:
            swap(getattr(pipe, name))

    def begin(pipe, step, timestep, tensors):
        swapping.extend([step] if step + 1 == late else [])
        return tensors

    with dx.apply(pipe, *methods):
        assert torch.equal(case.run(pipe, **run), wanted)
        swapping.extend([] if late else [0])
        with pytest.raises(dx.UnsupportedError, match=ORDER):
            case.run(pipe, **run, callback_on_step_end=begin)
        assert swapping
        swapping.clear()
        assert torch.equal(case.run(pipe, **run), wanted)


@pytest.mark.parametrize("tiny", [flux, wan, hunyuan_video, mochi])
def test_a_bare_denoiser_that_is_asked_unconditional_first_is_refused(tiny):
    model, call = tiny.transformer(), tiny.inputs(1)
    earlier = call | {"timestep": call["timestep"] * 0 + 1}

    def ask(name, **call):
        with model.cache_context(name):
            return model(**call)[0]

    with dx.apply(model, dx.SoftPAG()):
        wanted = ask("cond", **call), ask("uncond", **call)
    with dx.apply(model, dx.SoftPAG()):
        for before in ([], [("cond", earlier), ("uncond", earlier)], [("cond", earlier)]):
            for name, arguments in before:
                ask(name, **arguments)
            with pytest.raises(dx.UnsupportedError, match=ORDER):
                ask("uncond", **call)
            assert all(map(torch.equal, (ask("cond", **call), ask("uncond", **call)), wanted))


ROWS = 4
# Sizes at which one axis after the other is as long as the batch; the last are those of no axis.
FAMILIES = {
    "unet": (unet, unet.unet, [dict(height=4), dict(width=4), dict(text=4), {}]),
    "sdxl": (unet, lambda: unet.unet(sdxl=True), [dict(height=4), dict(text=4)]),
    "sd3": (sd3, sd3.transformer, [dict(height=4), dict(width=4), dict(text=4), {}]),
    "flux": (
        flux,
        flux.transformer,
        [dict(height=2, width=2), dict(text=4), dict(height=1, width=4, text=4), {}],
    ),
    "wan": (wan, wan.transformer, [dict(frames=4), dict(height=2), dict(width=2), dict(text=4), {}]),
    "hunyuan-video": (
        hunyuan_video,
        hunyuan_video.transformer,
        [dict(frames=4), dict(height=2), dict(width=2), dict(text=4)],
    ),
    "mochi": (mochi, mochi.transformer, [dict(frames=4), dict(height=2), dict(width=2), dict(text=4)]),
}
UNBATCHED = {"img_ids", "txt_ids", "return_dict"}
"""Of the arguments that `inputs` of the tiny models give; a timestep without axes is everybody's."""


def cut(value, rows):
    if isinstance(value, dict):
        return {k: v if k in UNBATCHED else cut(v, rows) for k, v in value.items()}
    return value[rows] if torch.is_tensor(value) and value.ndim else value


@pytest.mark.parametrize(
    "name, sizes", [(name, sizes) for name, (_, _, every) in FAMILIES.items() for sizes in every], ids=str
)
def test_guidance_takes_conditional_rows_and_nothing_else(name, sizes):
    """The prediction equals that of the conditional rows alone, whatever else has as many entries."""
    tiny, build, _ = FAMILIES[name]
    settings = {"sdxl": True} if name == "sdxl" else {}
    if tiny in (hunyuan_video, mochi):
        settings["lengths"] = (3, 2, 1, 2)
    model, call = build(), tiny.inputs(ROWS, **settings, **sizes)
    method = dx.SoftPAG(strength=1.0, scale=2.0)
    cond = cut(call, slice(ROWS // 2, ROWS))
    with torch.no_grad():
        plain, alone = model(**call)[0], model(**cond)[0]
        with dx.apply(model, method):
            delta = model(**cond)[0] - alone
        with dx.apply(model, method, cfg="batch") as session:
            ours = model(**call)[0]
    assert session.report().extra_passes == 1 and delta.abs().max() > 1e-4
    torch.testing.assert_close(ours - plain, torch.cat([delta, delta]), rtol=1e-3, atol=1e-5)
