"""Share what the runs of the image models need: an untrained autoencoder and small shards."""

import pytest
import torch

from diffusers_ext.training.data import latents
from diffusers_ext.zoo.models import build_vae


@pytest.fixture(scope="module")
def small_shards():
    """Use 128 samples per shard; a run of few steps draws no more."""
    whole, latents.SHARD = latents.SHARD, 128
    yield
    latents.SHARD = whole


@pytest.fixture(scope="session")
def vae():
    torch.manual_seed(0)
    return build_vae().half().float().eval()  # as a shipped one: stored in half precision
