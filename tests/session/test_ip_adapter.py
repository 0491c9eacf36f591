"""IP-Adapter and sessions: its own sites are refused, others stay free, loading it later is an error."""

import pytest
import torch

import diffusers_ext as dx

from ..hosts import processors
from ..tiny_models import unet

TOKENS, EMBEDDING = 4, 16


def adapter(model):
    """Weights of a real IP-Adapter for a UNet, random."""
    generator = torch.Generator().manual_seed(0)

    def randn(*shape):
        return torch.randn(*shape, generator=generator)

    width = model.config.cross_attention_dim
    keys = {}
    cross = [name for name in model.attn_processors if name.endswith("attn2.processor")]
    for i, name in enumerate(cross):
        inner = model.get_submodule(name.removesuffix(".processor")).inner_dim
        keys |= {
            f"{2 * i + 1}.to_k_ip.weight": randn(inner, width),
            f"{2 * i + 1}.to_v_ip.weight": randn(inner, width),
        }
    projection = {
        "proj.weight": randn(TOKENS * width, EMBEDDING),
        "proj.bias": randn(TOKENS * width),
        "norm.weight": torch.ones(width),
        "norm.bias": torch.zeros(width),
    }
    return {"image_proj": projection, "ip_adapter": keys}


@pytest.fixture
def model():
    return unet.unet()


def call_with_image(model):
    image = torch.randn(2, 1, EMBEDDING, generator=torch.Generator().manual_seed(1))
    return unet.inputs(2) | {"added_cond_kwargs": {"image_embeds": [image]}}


def test_loaded_before_self_attention_stays_free(model):
    model._load_ip_adapter_weights(adapter(model))
    call = call_with_image(model)
    stock = model(**call)[0]
    assert not torch.equal(
        stock, model(**call | {"added_cond_kwargs": {"image_embeds": [torch.zeros(2, 1, 16)]}})[0]
    )
    with dx.apply(model, dx.SoftPAG(scale=2.0), cfg="batch") as session:
        guided = model(**call)[0]
    assert session.report().extra_passes == 1 and not torch.equal(guided, stock)
    assert torch.equal(stock, model(**call)[0])


def test_loaded_before_its_own_sites_are_refused_by_name(model):
    model._load_ip_adapter_weights(adapter(model))
    before = processors(model)
    with pytest.raises(
        dx.UnsupportedError, match=r"attn2, run IPAdapterAttnProcessor2_0, which is not one of"
    ):
        dx.apply(model)  # all sites, the adapter's among them
    assert processors(model) == before


def test_loading_under_a_session_is_refused_and_changes_nothing(model):
    with dx.apply(model, dx.SoftPAG()):
        before = processors(model)
        with pytest.raises(
            dx.UnsupportedError, match="close the session, load the IP-Adapter, then apply again"
        ):
            model._load_ip_adapter_weights(adapter(model))
        assert processors(model) == before
