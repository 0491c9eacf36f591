"""Put a family's processors on a real model and compare with those of diffusers."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.models.attention_dispatch import _AttentionBackendRegistry
from torch import Tensor, nn
from torch._dynamo.utils import counters

from diffusers_ext.core import Layout, RunContext, Site
from diffusers_ext.families.base import Family, FamilyProcessor
from diffusers_ext.session.swap import set_processor


def install(model: nn.Module, family: Family, call: Mapping[str, Any]) -> list[FamilyProcessor]:
    """Puts our processors on every site, with the layout of `call`."""
    run = RunContext()
    run.layout = family.layout(model, call)
    processors = [family.processor(site, run) for site in family.sites(model, "transformer")]
    for processor in processors:
        set_processor(model.get_submodule(processor.site.name), processor)
    return processors


Seen = dict[Site, tuple[Tensor, Tensor, Tensor, Tensor | None, Layout | None]]


def seen_by_cores(
    model: nn.Module, family: Family, call: Mapping[str, Any], reads_layout: bool = False
) -> Seen:
    """Make one call; return `q, k, v, mask, layout` as the core of each site got them, in turn."""
    seen = {}
    for processor in install(model, family, call):

        def core(*arguments, processor=processor):
            seen[processor.site] = arguments
            return processor.dense(*arguments)

        processor.core, processor.reads_layout = core, reads_layout
    outputs(model, call)
    return seen


@torch.no_grad()
def outputs(model: nn.Module, call: Mapping[str, Any]) -> Tensor:
    """The prediction of one denoiser call that asks for tuples."""
    return model(**call)[0]


def assert_parity(model: nn.Module, family: Family, call: Mapping[str, Any]) -> None:
    """Check that every processor runs once, and that the prediction has the bits of diffusers."""
    expected = outputs(model, call)
    processors = install(model, family, call)
    actual = outputs(model, call)
    assert [p.calls for p in processors] == [1] * len(processors)
    assert expected.isfinite().all()
    assert torch.equal(actual, expected)


@contextmanager
def keeping_default_backend() -> Iterator[None]:
    """Undoes the process-wide default that `set_attention_backend` leaves behind."""
    before = _AttentionBackendRegistry._active_backend
    try:
        yield
    finally:
        _AttentionBackendRegistry._active_backend = before


def assert_backend_reaches(model: nn.Module, family: Family, call: Mapping[str, Any]) -> None:
    """`set_attention_backend` reaches our processors, and what they run is that back-end."""
    with keeping_default_backend():
        model.set_attention_backend("_native_math")
    # The default is native again, so only the processors still ask for the math back-end.
    expected = outputs(model, call)
    processors = install(model, family, call)
    native = outputs(model, call)
    with keeping_default_backend():
        model.set_attention_backend("_native_math")
    assert {p._attention_backend.value for p in processors} == {"_native_math"}
    assert torch.equal(outputs(model, call), expected)
    assert not torch.equal(native, expected)


def graphs(
    model: nn.Module, family: Family | None, calls: list[Mapping[str, Any]], fullgraph: bool = True
) -> list[int]:
    """Count compiled graphs after each call, with the processors of diffusers (`family=None`) or ours."""
    processors = install(model, family, calls[0]) if family else []
    torch._dynamo.reset()
    counters.clear()
    model.compile_repeated_blocks(fullgraph=fullgraph, backend="eager")
    counted = []
    for call in calls:
        for processor in processors:
            processor.run.layout = family.layout(model, call)
        outputs(model, call)
        counted.append(counters["stats"]["unique_graphs"])
    torch._dynamo.reset()
    return counted
