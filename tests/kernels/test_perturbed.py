"""Outputs of simpler maps against softmaxes with the maps written out."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusers_ext.kernels.perturbed import beside_text, mean_query, one_query, part_of, strongest
from diffusers_ext.kernels.scores import at, own_scores, scores_at

MASKS = [None, "bool", "float", "heads", "rows"]


def tensors(tokens, seed, heads=3):
    g = torch.Generator().manual_seed(seed)
    return (torch.randn(2, tokens, heads, 4, generator=g, dtype=torch.float64) for _ in range(3)), g


def drawn_mask(kind, tokens, g, always=slice(0), heads=3):
    """A mask of the given kind, and the same as `bool [B, H, S, S]`; keys at `always` are seen."""
    if kind is None:
        return None, torch.ones(2, heads, tokens, tokens, dtype=torch.bool)
    shape = 2, heads if kind == "heads" else 1, tokens if kind == "rows" else 1, tokens
    seen = torch.rand(shape, generator=g) > 0.3
    seen[..., always] = True
    return seen.double().log() if kind == "float" else seen, seen.expand(2, heads, tokens, tokens)


def attention(q, k, v, allowed):
    """Softmax over the allowed pairs, `[B, N, H, D]`."""
    qs, ks, vs = (x.transpose(1, 2) for x in (q, k, v))
    return ((qs @ ks.mT / 2).masked_fill(~allowed, -math.inf).softmax(-1) @ vs).transpose(1, 2)


@settings(max_examples=20, deadline=None)
@given(
    image=st.integers(1, 9),
    text=st.integers(1, 6),
    text_first=st.booleans(),
    mask=st.sampled_from(MASKS),
    best=st.booleans(),
    seed=st.integers(0, 99),
)
def test_one_image_key_and_the_text(image, text, text_first, mask, best, seed):
    """The key is that of the token itself, or the strongest of the image keys that are seen."""
    (q, k, v), g = tensors(image + text, seed)
    s = image + text
    vision, words = (slice(text, s), slice(0, text)) if text_first else (slice(0, image), slice(image, s))
    given_mask, seen = drawn_mask(mask, s, g, always=vision)
    logits = (q[:, vision].transpose(1, 2) @ k[:, vision].permute(0, 2, 3, 1)) / 2
    number = logits.argmax(-1) if best else torch.arange(image).expand(2, 3, image)
    one = torch.zeros(2, 3, image, image, dtype=torch.bool).scatter(3, number[..., None], True)
    allowed = seen.clone()
    allowed[:, :, vision, vision] = one
    qi, ki, vi = (x[:, vision] for x in (q, k, v))
    shown = part_of(given_mask, vision, vision)
    if best:
        numbers = strongest(qi, ki, shown)
        own, value = scores_at(qi, ki, shown, numbers), at(vi, numbers)
    else:
        own, value = own_scores(qi, ki, shown), vi
    ours = beside_text(own, value, q, k, v, given_mask, vision, words)
    torch.testing.assert_close(ours, attention(q, k, v, allowed)[:, vision])


@pytest.mark.parametrize("mask", MASKS)
def test_one_query_in_every_row(mask):
    (q, k, v), g = tensors(7, 0)
    given_mask, seen = drawn_mask(mask, 7, g, always=slice(0, 1))
    for query in (q.mean(1, keepdim=True), torch.zeros_like(q[:, :1])):
        wanted = attention(query.expand_as(q), k, v, seen)
        torch.testing.assert_close(one_query(query, k, v, given_mask).expand_as(wanted), wanted)
    weights = seen.double() / seen.sum(-1, keepdim=True)
    uniform = (weights @ v.transpose(1, 2)).transpose(1, 2)
    torch.testing.assert_close(one_query(query, k, v, given_mask).expand_as(uniform), uniform)


def test_mean_query_of_some_rows():
    (q, *_), _ = tensors(6, 1)
    rows = torch.tensor([[1, 1, 1, 1, 0, 0], [0, 1, 0, 0, 0, 1]])[..., None, None]
    torch.testing.assert_close(mean_query(q, rows)[0], q[0, :4].mean(0, keepdim=True))
    torch.testing.assert_close(mean_query(q, rows)[1], q[1, [1, 5]].mean(0, keepdim=True))
    torch.testing.assert_close(mean_query(q, None), q.mean(1, keepdim=True))
    long = torch.full((1, 5000, 1, 1), 0.1, dtype=torch.float16)  # whose sum in fp16 would be off
    torch.testing.assert_close(mean_query(long, torch.ones_like(long)), long[:, :1])


@pytest.mark.parametrize("mask", MASKS)
def test_the_strongest_key_is_found_in_groups_of_any_size(mask):
    (q, k, _), g = tensors(11, 2)
    given_mask, seen = drawn_mask(mask, 11, g, always=slice(0, 1))
    logits = (q.transpose(1, 2) @ k.permute(0, 2, 3, 1)).masked_fill(~seen, -math.inf)
    for pairs in (1, 200, 1 << 20):
        assert torch.equal(strongest(q, k, given_mask, pairs), logits.argmax(-1))


def test_the_operator_suits_the_compiler():
    (q, k, _), _ = tensors(5, 3)
    torch.library.opcheck(torch.ops.diffusers_ext.strongest_keys, (q, k, None, 100))
