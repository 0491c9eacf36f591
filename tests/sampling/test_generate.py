import numpy as np
import pytest
import torch

from diffusers_ext import SoftPAG
from diffusers_ext.sampling.failures import BrokenImageError
from diffusers_ext.sampling.generate import applied, flags_of, generate, to_image
from diffusers_ext.sampling.items import Item

CALL = {"num_inference_steps": 2, "max_sequence_length": 16}
ITEMS = [
    Item("a red circle", 0),
    Item("a blue star", 1),
    Item("a red circle", 2),
    Item("two stars", 3),
    Item("", 4),
]


def pixels(pipe, batch, items=ITEMS):
    pictures = [p for group in generate(pipe, items, CALL, batch) for p in group]
    assert [p.item for p in pictures] == items
    return np.stack([np.asarray(p.image) for p in pictures]).astype(int)


def test_one_image_is_what_the_stock_call_makes(pipe):
    ours = pixels(pipe, 1, ITEMS[:1])[0]
    stock = pipe("a red circle", generator=torch.Generator().manual_seed(0), **CALL).images[0]
    assert np.array_equal(ours, np.asarray(stock))


def test_results_do_not_depend_on_the_batch(pipe):
    alone = pixels(pipe, 1)
    assert np.abs(alone - pixels(pipe, 2)).max() <= 1
    assert np.abs(alone - pixels(pipe, 5)).max() <= 1
    assert (alone[0] != alone[2]).mean() > 0.5, "another seed must give another picture"


def test_methods_act_and_leave(pipe):
    before = pixels(pipe, 2)
    with applied(pipe, [SoftPAG(scale=5.0)]) as session:
        with_method = pixels(pipe, 2)
        assert session.report().extra_passes == 2 * 3
    assert (before != with_method).mean() > 0.1
    assert np.array_equal(before, pixels(pipe, 2))


def test_plain_means_the_stock_processors(pipe):
    processors = pipe.transformer.attn_processors
    with applied(pipe, []) as session:
        assert session is None
        assert all(
            a is b
            for a, b in zip(pipe.transformer.attn_processors.values(), processors.values(), strict=True)
        )


def test_nan_is_an_error_and_not_a_black_image(pipe):
    with torch.no_grad():
        pipe.transformer.proj_out.bias.fill_(float("nan"))
    with pytest.raises(BrokenImageError, match=r"NaN or infinity .*'a red circle', seed 0"):
        pixels(pipe, 1)


def test_black_is_an_error(pipe):
    with torch.no_grad():
        pipe.vae.decoder.conv_out.weight.zero_()
        pipe.vae.decoder.conv_out.bias.fill_(-9.0)
    with pytest.raises(BrokenImageError, match="all-black"):
        pixels(pipe, 1)


def test_grey_is_flagged(pipe):
    with torch.no_grad():
        pipe.vae.decoder.conv_out.weight.zero_()
        pipe.vae.decoder.conv_out.bias.zero_()
    ((picture,),) = generate(pipe, ITEMS[:1], CALL)
    assert picture.flags == ("constant",)
    assert flags_of(np.random.default_rng(0).random((4, 4, 3))) == ()


def test_safety_checker_is_named():
    with pytest.raises(BrokenImageError, match="safety checker"):
        to_image(np.zeros((4, 4, 3)), ITEMS[0], hidden=True)


def test_empty_batch_is_refused(pipe):
    with pytest.raises(ValueError, match="at least one image, got 0"):
        next(generate(pipe, ITEMS, CALL, 0))
