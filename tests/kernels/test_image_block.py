"""The closed form against a softmax with the mask written out."""

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusers_ext.kernels.image_block import image_block


@settings(max_examples=40, deadline=None)
@given(
    image=st.integers(1, 9),
    text=st.integers(1, 6),
    text_first=st.booleans(),
    mask=st.sampled_from([None, "bool", "float", "heads"]),
    seed=st.integers(0, 99),
)
def test_image_block_equals_a_masked_softmax(image, text, text_first, mask, seed):
    g = torch.Generator().manual_seed(seed)
    s, heads = image + text, 3
    q, k, v = (torch.randn(2, s, heads, 4, generator=g) for _ in range(3))
    vision, words = (slice(text, s), slice(0, text)) if text_first else (slice(0, image), slice(image, s))
    host_mask = None
    if mask is not None:
        keys = torch.rand(2, heads if mask == "heads" else 1, 1, s, generator=g) > 0.3
        keys[..., vision] = True
        host_mask = keys.float().log() if mask == "float" else keys
    picked = torch.tensor([0, 2])
    allowed = torch.ones(s, s, dtype=torch.bool)
    allowed[vision, vision] = torch.eye(image, dtype=torch.bool)
    bias = torch.zeros(s, s).masked_fill(~allowed, -math.inf)
    if host_mask is not None:
        bias = bias + (host_mask if mask == "float" else host_mask.float().log())
    qs, ks, vs = (x.transpose(1, 2) for x in (q, k, v))
    expected = ((qs @ ks.transpose(-1, -2) / 2 + bias).softmax(-1) @ vs).transpose(1, 2)[:, vision][
        :, :, picked
    ]
    ours = image_block(*(x[:, :, picked] for x in (q, k, v)), host_mask, vision, words, picked)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
