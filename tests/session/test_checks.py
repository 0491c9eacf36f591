"""apply() refuses what it cannot run, and a refusal leaves nothing behind."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from diffusers import ContextParallelConfig, FirstBlockCacheConfig
from diffusers.models._modeling_parallel import ParallelConfig

import diffusers_ext as dx
from diffusers_ext.core import Method, Slot

from ..hosts import built, processors
from ..tiny_models import flux, sd3, unet
from .test_session import same_state, state_of


def refused(target, *methods, error, match, **more):
    before = state_of(target) if not isinstance(target, torch.nn.Module) else processors(target)
    with pytest.raises(error, match=match):
        dx.apply(target, *methods, **more)
    after = state_of(target) if not isinstance(target, torch.nn.Module) else processors(target)
    assert same_state(before, after) if not isinstance(target, torch.nn.Module) else before == after


def test_second_apply_is_refused_and_the_first_goes_on():
    model, call = sd3.transformer(), sd3.inputs(1)
    with dx.apply(model, dx.SoftPAG()):
        guided = model(**call)[0]
        refused(model, dx.SoftPAG(), error=dx.ConflictError, match="pass both methods to one apply")
        assert torch.equal(guided, model(**call)[0])


def test_two_guidance_methods_are_refused():
    refused(
        sd3.pipeline(),
        dx.SoftPAG(),
        dx.SoftPAG(scale=1.0),
        error=dx.ConflictError,
        match="merge their head sets",
    )


def test_unknown_denoiser_lists_the_known_ones():
    refused(
        torch.nn.Linear(2, 2), error=dx.UnsupportedError, match=r"Linear; known are .*FluxTransformer2DModel"
    )


def test_pipeline_without_denoiser_lists_the_known_ones():
    with pytest.raises(
        dx.UnsupportedError, match=r"none of the components unet, transformer.*WanTransformer3DModel"
    ):
        dx.apply(object(), dx.SoftPAG())


class OnlyTheNames:
    """Has all that a method has, and does not inherit from it."""

    name, slots = "names", frozenset({Slot.OBSERVE})

    def select(self, sites):
        return list(sites)

    def why_not(self, site, layout):
        return None

    def bind(self, site, run, inner):
        return inner


class Inherits(OnlyTheNames, Method):
    pass


class Unnamed(Inherits):
    @property
    def name(self):
        raise AttributeError("name")


class GuidesInSecret(Inherits):
    slots = frozenset({Slot.DENOISER})


@pytest.mark.parametrize(
    ("method", "match"),
    [
        (OnlyTheNames, r"inherit from diffusers_ext\.core\.Method, got OnlyTheNames.*write class OnlyThe"),
        (Unnamed, r"got Unnamed without name; set Unnamed\.name"),
        (GuidesInSecret, r"DENOISER inherits from diffusers_ext\.core\.Guidance.*got GuidesInSecret"),
    ],
)
def test_a_users_method_that_is_none_is_refused_with_what_to_inherit(method, match):
    refused(sd3.transformer(), method(), error=dx.MethodError, match=match)
    dx.apply(sd3.transformer(), Inherits()).close()


@dataclass(frozen=True, slots=True)
class Settings(Method):
    """Settings without a `__dict__`."""

    name: ClassVar[str] = "settings"
    slots: ClassVar[frozenset[Slot]] = frozenset({Slot.OBSERVE})

    strength: float = 1.0

    def select(self, sites):
        return list(sites)

    def bind(self, site, run, inner):
        return inner


def test_a_method_may_be_a_frozen_dataclass_with_slots():
    method = Settings(0.5)
    assert not hasattr(method, "__dict__") and method.reads_layout and not method.order_free
    with dx.apply(sd3.transformer(), method) as session:
        assert session.report().to_dict()["methods"] == [{"name": "settings", "strength": 0.5}]


class Speaks:
    """A core that has a name of reporting cores and does not inherit from them."""

    def __init__(self, inner):
        self.inner = inner

    def begin_call(self, like):
        pass

    def __call__(self, *tensors):
        return self.inner(*tensors)


class Prepared(Settings):
    """A method with such a core."""

    def bind(self, site, run, inner):
        return Speaks(inner)


def test_a_core_that_would_never_be_prepared_is_refused():
    refused(
        sd3.pipeline(),
        Prepared(),
        error=dx.MethodError,
        match=r"core with begin_call inherits from diffusers_ext.core.ReportingCore.*class Speaks\(Rep",
    )


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("softpag", r"got str; dx\.preset\(pipe, 'softpag'\) makes the method of a name"),
        ([dx.SoftPAG()], r"got list; give its methods one by one, as apply\(pipe, \*methods\)"),
        (dx.BestOfN(), r"got BestOfN; a sampler is called by itself, as sampler\.sample\(pipe, prompt\)"),
        (None, "got NoneType; 'diffusers-ext methods' lists them"),
    ],
)
def test_not_a_method(given, words):
    words = rf"takes methods such as SoftPAG\(\.\.\.\), {words}"
    refused(sd3.transformer(), given, error=dx.MethodError, match=words)


def test_a_kind_of_guidance_that_is_none():
    refused(
        sd3.transformer(),
        dx.SoftPAG(),
        cfg="both",
        error=dx.MethodError,
        match=r"\(auto, none, batch, two_calls\), got 'both'; leave it out",
    )


def test_a_compiled_model_is_refused_both_ways():
    model = torch.compile(sd3.transformer(), backend="eager")
    with pytest.raises(dx.UnsupportedError, match=r"compile its blocks \(for block in"):
        dx.apply(model, dx.SoftPAG())
    model = sd3.transformer()
    model.compile(backend="eager")
    refused(model, dx.SoftPAG(), error=dx.UnsupportedError, match="compiled as a whole")


def test_attention_slicing_is_refused():
    pipe = unet.pipeline()
    pipe.enable_attention_slicing()
    refused(
        pipe, dx.SoftPAG(), error=dx.UnsupportedError, match="run SlicedAttnProcessor.*undo what installed it"
    )


def test_slicing_after_apply_is_an_error_in_the_run_and_named_at_the_end():
    h, pipe = built("sd")
    session = dx.apply(pipe, dx.SoftPAG(heads={h.layer: None}))
    pipe.enable_attention_slicing()
    with pytest.raises(RuntimeError, match="were replaced after apply"):
        h.run(pipe)
    with pytest.warns(UserWarning, match="replaced by someone else"):
        session.close()


def test_parallelism_is_refused_before_and_after():
    config = ParallelConfig(context_parallel_config=ContextParallelConfig(ulysses_degree=2))
    model = flux.transformer()
    with dx.apply(model), pytest.raises(dx.UnsupportedError, match="close the session before enable_parall"):
        model.transformer_blocks[0].attn.processor._parallel_config = config
    model._parallel_config = config
    refused(model, dx.SoftPAG(), error=dx.UnsupportedError, match="splits what our attention must see whole")


def test_enabled_cache_is_a_conflict_before_and_after():
    model, call = flux.transformer(), flux.inputs()
    model.enable_cache(FirstBlockCacheConfig(threshold=0.1))
    refused(model, dx.SoftPAG(), error=dx.ConflictError, match=r"call disable_cache\(\) first")
    model.disable_cache()
    with dx.apply(model, dx.SoftPAG()):
        model.enable_cache(FirstBlockCacheConfig(threshold=0.1))
        with pytest.raises(dx.ConflictError, match="poison the residuals"), model.cache_context("cond"):
            model(**call)


def test_a_cache_without_guidance_is_allowed():
    # The threshold is high enough for the second call to reuse what the first one left.
    outputs = []
    for methods in (None, ()):
        model, call = flux.transformer(), flux.inputs()
        model.enable_cache(FirstBlockCacheConfig(threshold=1e3))
        session = None if methods is None else dx.apply(model)
        with model.cache_context("cond"):
            outputs.append([model(**call | {"timestep": torch.tensor([t])})[0] for t in (0.5, 0.4)])
    assert torch.equal(outputs[0][0], outputs[1][0]) and torch.equal(outputs[0][1], outputs[1][1])
    blocks = {
        site.path.split(".")[1]: site.calls for site in session.report().sites if "single" not in site.path
    }
    assert blocks == {"0": 2, "1": 1}
