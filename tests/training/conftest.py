"""Share what the runs of the image models need: an untrained autoencoder and small shards."""

import pytest
import torch

from diffusers_ext.training.data import latents
from diffusers_ext.training.objectives.wan import ClipStream
from diffusers_ext.zoo.models import build_vae

SHARD = 32  # samples; a run of few steps draws no more


def shrink(patch: pytest.MonkeyPatch) -> None:
    """Make small shards, of pictures and of clips, and encode each of them at once."""
    patch.setattr(latents, "SHARD", SHARD)
    for stream in (latents.LatentStream, ClipStream):
        patch.setattr(stream, "piece", SHARD)


@pytest.fixture(scope="module")
def small_shards():
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        yield


def untrained_vae():
    """Make an autoencoder as a shipped one, stored in half precision."""
    torch.manual_seed(0)
    return build_vae().half().float().eval()


@pytest.fixture(scope="session")
def vae():
    return untrained_vae()
