"""Turning keys to other positions, against keys that FLUX.1 of diffusers turns there at once."""

import torch
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.models.transformers.transformer_flux import FluxPosEmbed

from diffusers_ext.kernels.rotary import turned

from ..close import close

CHANNELS, THETA = (4, 6, 10), 500
DRAW = torch.Generator().manual_seed(0)


def keys_at(k, positions):
    return apply_rotary_emb(k, FluxPosEmbed(THETA, CHANNELS)(positions.float()), sequence_dim=1)


def test_keys_come_to_their_new_positions():
    k = torch.randn(2, 7, 3, sum(CHANNELS), generator=DRAW)
    old, new = torch.randint(0, 20, (2, 7, 3), generator=DRAW)
    close(turned(keys_at(k, old), new - old, CHANNELS, THETA), keys_at(k, new))
    assert (keys_at(k, old) - keys_at(k, new)).abs().max() > 0.1


def test_no_distance_changes_no_bit():
    k = torch.randn(1, 5, 2, sum(CHANNELS), generator=DRAW)
    assert torch.equal(turned(k, torch.zeros(5, 3), CHANNELS, THETA), k)
    assert turned(k.bfloat16(), torch.ones(5, 3), CHANNELS, THETA).dtype == torch.bfloat16
