"""What tests of methods ask of complete pipelines: an oracle's pictures, the plain ones, or a refusal."""

from typing import Any

import pytest
import torch

import diffusers_ext as dx
from diffusers_ext.core import Method
from diffusers_ext.session.report import Report

from ..close import alike
from ..hosts import Host, nothing_changed


@torch.no_grad()
def predict(target: Any, call: dict[str, Any], *methods: Method) -> torch.Tensor:
    """Return the prediction of one call of a denoiser under methods."""
    with dx.apply(target, *methods):
        return target(**call)[0]


def makes_the_pictures_of(oracle: Method, method: Method, host: Host, **run: Any) -> Report:
    """Compare two methods on one pipeline; return the report of the second."""
    pipe = host.build()
    with dx.apply(pipe, oracle):
        wanted = host.run(pipe, **run)
    with dx.apply(pipe, method) as session:
        alike(host.run(pipe, **run), wanted)
    return session.report()


def hides_nothing(method: Method, host: Host, **run: Any) -> None:
    """The method is the plain model, bit for bit, and says so."""
    pipe = host.build()
    plain = host.run(pipe, **run)
    with dx.apply(pipe, method) as session, nothing_changed(f"{method.name} hides nothing"):
        assert torch.equal(host.run(pipe, **run), plain)
    reasons = {s.why for s in session.report().sites if s.kind != "cross"}
    assert reasons == {f"{method.name} hides nothing on this grid"}


def is_refused(method: Method, host: Host, words: str, error: type = dx.UnsupportedError, **run: Any) -> None:
    """The method is refused by `words`, in a call if not before, and leaves the pipeline as it was."""
    pipe = host.build()
    plain = host.run(pipe, **run)
    with pytest.raises(error, match=words), dx.apply(pipe, method):
        host.run(pipe, **run)
    assert torch.equal(host.run(pipe, **run), plain)
