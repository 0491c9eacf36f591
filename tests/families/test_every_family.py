"""What every family promises: whose processors it replaces, bits under LoRA and in bfloat16, refusals."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import (
    AttnProcessor2_0,
    JointAttnProcessor2_0,
    MochiAttnProcessor2_0,
)
from diffusers.models.transformers.transformer_flux import FluxAttnProcessor
from diffusers.models.transformers.transformer_hunyuan_video import HunyuanVideoAttnProcessor2_0
from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from peft import LoraConfig

from diffusers_ext.errors import UnsupportedError
from diffusers_ext.families import family_of

from ..tiny_models import flux, hunyuan_video, mochi, sd3, unet, wan
from .parity import assert_backend_reaches, assert_parity, install, outputs

TEXT_TOO = ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")


@dataclass(frozen=True)
class Case:
    """A tiny model, its call, the host's processor class, timesteps of a call, and what LoRA may adapt."""

    build: Callable[[], Any]
    inputs: Callable[..., dict[str, Any]]
    stock: type
    timestep: float = 500.0
    adapted: tuple[str, ...] = ()
    dispatches: bool = False  # through the attention back-ends of the host


def wan_image_inputs(batch=1, seed=0, **call):
    return wan.inputs(batch, seed, text=512, image=5, **call)


CASES = {
    "unet": Case(unet.unet, unet.inputs, AttnProcessor2_0),
    "sd3": Case(sd3.transformer, sd3.inputs, JointAttnProcessor2_0, adapted=TEXT_TOO),
    "sd3.5": Case(
        lambda: sd3.transformer(qk_norm="rms_norm", dual_attention_layers=(0, 1)),
        sd3.inputs,
        JointAttnProcessor2_0,
        adapted=TEXT_TOO,
    ),
    "flux": Case(flux.transformer, flux.inputs, FluxAttnProcessor, adapted=TEXT_TOO, dispatches=True),
    "wan": Case(wan.transformer, wan.inputs, WanAttnProcessor, dispatches=True),
    "wan-image": Case(
        lambda: wan.transformer(**wan.IMAGE_TO_VIDEO),
        wan_image_inputs,
        WanAttnProcessor,
        adapted=("add_k_proj", "add_v_proj"),
        dispatches=True,
    ),
    "hunyuan-video": Case(
        hunyuan_video.transformer,
        hunyuan_video.inputs,
        HunyuanVideoAttnProcessor2_0,
        adapted=TEXT_TOO,
        dispatches=True,
    ),
    "mochi": Case(mochi.transformer, mochi.inputs, MochiAttnProcessor2_0, adapted=TEXT_TOO),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))


@every_case
def test_stock_is_what_the_host_installs(case):
    model = case.build()
    family = family_of(model)
    installed = {type(model.get_submodule(site.name).processor) for site in family.sites(model, "")}
    assert installed == {case.stock}
    fused = {name for name in family.stock if name.startswith("Fused")}
    assert family.stock == {case.stock.__name__} | fused
    assert family.denoisers == (type(model).__name__,)


@every_case
def test_parity_in_bfloat16(case):
    model = case.build().to(torch.bfloat16)
    assert_parity(model, family_of(model), case.inputs(2, dtype=torch.bfloat16))


@every_case
def test_parity_under_lora(case):
    model = case.build()
    plain = outputs(model, case.inputs())
    targets = ["to_q", "to_k", "to_v", "to_out.0", *case.adapted]
    # init_lora_weights=False draws B at random, so that the adapters act
    model.add_adapter(LoraConfig(r=2, target_modules=targets, init_lora_weights=False))
    assert not torch.equal(outputs(model, case.inputs()), plain)
    assert_parity(model, family_of(model), case.inputs())


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.dispatches])
def test_attention_backend_reaches_our_processors(name):
    model = CASES[name].build()
    assert_backend_reaches(model, family_of(model), CASES[name].inputs())


@every_case
def test_timestep_and_batch(case):
    call, family = case.inputs(3), family_of(case.build())
    timestep = torch.as_tensor(family.timestep(call))
    assert (timestep == case.timestep).all() and timestep.ndim < 2
    assert family.batch(call) == 3


@every_case
def test_rebuilding_without_a_session_is_refused(case):
    model = case.build()
    for processor in install(model, family_of(model), case.inputs()):
        name = type(processor).__name__
        with pytest.raises(
            UnsupportedError, match=f"{name} belongs to an applied .*load the IP-Adapter, then"
        ):
            type(processor)()


@every_case
def test_context_parallelism_is_refused(case):
    model = case.build()
    for processor in install(model, family_of(model), case.inputs()):
        processor._parallel_config = None
        with pytest.raises(UnsupportedError, match=r"shards the sequence.*enable_parallelism\(\)"):
            processor._parallel_config = object()


@every_case
def test_state_dict_keeps_its_keys(case):
    model = case.build()
    before = list(model.state_dict())
    install(model, family_of(model), case.inputs())
    assert list(model.state_dict()) == before
