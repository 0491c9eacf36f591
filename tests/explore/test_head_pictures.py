"""A picture for each head: packed rows are single runs, limits are the plain model, failures."""

import numpy as np
import pytest
import torch

import diffusers_ext as dx
from diffusers_ext import explore
from diffusers_ext.errors import ConflictError, MethodError
from diffusers_ext.explore import head_pictures
from diffusers_ext.sampling.failures import BrokenImageError

from ..hosts import HOSTS, built, processors
from .test_token_maps import PROMPT, call_of, pixels, plain

SOME = [h for h in HOSTS if h.name in ("sd", "sdxl", "sd3.5", "flux", "wan2.2", "hunyuan-video")]


def near(a, b):
    """Whether two pictures differ by at most one level, as those of batches of other sizes do."""
    return np.abs(pixels(a).astype(int) - pixels(b).astype(int)).max() <= 1


@pytest.mark.parametrize("host", SOME, ids=lambda host: host.name)
def test_packed_heads_are_single_runs_of_softpag(host):
    pipe, call = host.build(), call_of(host)
    sheet = explore.heads(pipe, PROMPT, layers=host.layer, heads=[0, 2, 3], micro_batch=3, scale=5.0, **call)
    assert np.array_equal(pixels(sheet.plain), plain(pipe, call))
    assert [(each.layer.partition(".")[2], each.head) for each in sheet.pictures] == [
        (host.layer, head) for head in (0, 2, 3) for _ in range(len(sheet.layers))
    ] or len(sheet.layers) == 2  # Wan 2.2 has the layer in two denoisers
    for each in sheet.pictures[:2]:
        with dx.apply(pipe, dx.SoftPAG(heads={each.layer: [each.head]}, strength=1.0, scale=5.0)):
            wanted = plain(pipe, call)
        assert near(each.image, wanted)
        moved = pixels(each.image).astype(float) - pixels(sheet.plain)
        assert each.change == pytest.approx(np.sqrt((moved**2).mean()), rel=1e-5)
        assert each.verdict.correct is None  # no ground truth of random weights
    assert sheet.largest(1)[0].change == max(each.change for each in sheet.pictures) > 0


@pytest.mark.parametrize("setting", ["scale", "strength"])
def test_zero_is_the_plain_picture(setting):
    host, pipe = built("sd")
    call = call_of(host)
    sheet = explore.heads(pipe, PROMPT, layers=host.layer, micro_batch=1, **{setting: 0.0}, **call)
    assert len(sheet.pictures) == 4
    for each in sheet.pictures:
        assert np.array_equal(pixels(each.image), pixels(sheet.plain)) and each.change == 0.0


def test_all_heads_of_all_layers_in_batches_of_any_size():
    host, pipe = built("sd")
    call = call_of(host, cfg=False, steps=1)
    sites = [site for site in explore.layers.sites_of(pipe) if site.kind == "self"]
    batches = {size: explore.heads(pipe, PROMPT, micro_batch=size, **call) for size in (1, 5)}
    for sheet in batches.values():
        assert [(e.layer, e.head) for e in sheet.pictures] == [(s.path, h) for s in sites for h in range(4)]
    for one, five in zip(batches[1].pictures, batches[5].pictures, strict=True):
        assert near(one.image, five.image)


def test_a_verdict_where_there_is_ground_truth():
    pipe = dx.load("shapes-sd-turbo")
    pipe.set_progress_bar_config(disable=True)
    sheet = explore.heads(pipe, "a red circle", layers="mid_block*attn1")
    assert sheet.verdict.correct in (True, False)
    assert {each.verdict.correct for each in sheet.pictures} <= {True, False}
    assert head_pictures.cost(head_pictures.plan(pipe, "mid_block*attn1")) == (
        "4 pictures for 3 heads in 1 layer, all but the first with one more pass a step"
    )


def test_beside_a_sparse_method():
    host, pipe = built("flux")
    clear = dx.CLEAR(radius=2, dense_steps=0, backend="reference")
    sheet = explore.heads(pipe, PROMPT, layers=host.layer, heads=[1], methods=[clear], **call_of(host))
    with dx.apply(pipe, clear):
        assert np.array_equal(pixels(sheet.plain), plain(pipe, call_of(host)))
    with pytest.raises(ConflictError):
        explore.heads(pipe, PROMPT, layers=host.layer, methods=[dx.SoftPAG()], **call_of(host))


# failures -------------------------------------------------------------------------------------------------


def test_a_head_with_nan_leaves_the_others(monkeypatch):
    """The fault is in the rows of one head, as an overflow in half precision would be."""
    host, pipe = built("sd")
    made = head_pictures.make

    def broken(pipe, prompts, seeds, call, methods):
        images = made(pipe, prompts, seeds, call, methods)
        if any(list(s.values()) == [[2]] for m in methods for s in m.heads):
            raise BrokenImageError("the pipeline returned NaN or infinity; try another seed")
        return images

    monkeypatch.setattr(head_pictures, "make", broken)
    sheet = explore.heads(pipe, PROMPT, layers=host.layer, **call_of(host))
    assert [each.image is None for each in sheet.pictures] == [False, False, True, False]
    assert sheet.pictures[2].reason.startswith("the pipeline returned NaN")
    assert sheet.pictures[2].change is None and len(sheet.largest()) == 3


def test_out_of_memory_takes_smaller_batches(monkeypatch):
    host, pipe = built("sd")
    made, sizes = head_pictures.make, []

    def small(pipe, prompts, *rest):
        sizes.append(len(prompts))
        if len(prompts) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return made(pipe, prompts, *rest)

    monkeypatch.setattr(head_pictures, "make", small)
    sheet = explore.heads(pipe, PROMPT, layers=host.layer, micro_batch=4, **call_of(host))
    assert sizes == [1, 4, 2, 2] and all(each.image is not None for each in sheet.pictures)


def test_memory_that_one_picture_does_not_fit_into(monkeypatch):
    host, pipe = built("sd")

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(head_pictures, "make", full)
    with pytest.raises(torch.OutOfMemoryError):
        explore.heads(pipe, PROMPT, layers=host.layer, **call_of(host))


def test_more_pictures_than_memory_holds(monkeypatch):
    host, pipe = built("sd")
    monkeypatch.setattr(head_pictures, "free_bytes", lambda device: 10_000)  # three pictures of 32 x 32
    with pytest.raises(MethodError, match=r"4 pictures of 0 MiB do not fit .* choose at most 3 heads"):
        explore.heads(pipe, PROMPT, layers=host.layer, **call_of(host))


@pytest.mark.parametrize(
    "more, said",
    [
        ({"layers": "mid_blok"}, "the nearest names are mid_block,"),
        ({"layers": "*attn2"}, "is cross-attention; name others, as"),
        ({"heads": [4]}, "have heads 0 to 3, got 4; the nearest is 3"),
        ({"heads": [-1]}, "got -1; the nearest is 0"),
        ({"heads": ["x"]}, "got 'x'"),
        ({"heads": []}, "got none; leave heads out to have all"),
        ({"most": 5}, "a sheet of 16 heads in 4 layers takes 17 pictures, and at most 5 heads are drawn"),
        ({"micro_batch": 0}, "a batch is 1 or more pictures, got 0"),
        ({"strength": 1.5}, "strength must lie in"),
        ({"scale": float("nan")}, "scale"),
        ({"scale": 99.0}, "scale must lie in"),
        ({"seed": 2**63}, "a seed must be a whole number"),
        ({"output_type": "pt"}, "sets output_type itself"),
    ],
)
def test_refused_before_anything_runs(more, said):
    host, pipe = built("sd")
    before, called = processors(pipe.unet), []
    pipe.unet.register_forward_pre_hook(lambda *_: called.append(1))
    with pytest.raises(ValueError, match=said):
        explore.heads(pipe, PROMPT, **call_of(host) | more)
    assert processors(pipe.unet) == before and not called
