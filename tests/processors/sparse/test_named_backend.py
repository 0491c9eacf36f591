"""A back-end that was named runs, or there is an error; attention never falls back in silence."""

import pytest

import diffusers_ext as dx

from ...hosts import built

METHODS = [
    ("sd", dx.CLEAR, {"radius": 2}),
    ("sd3", dx.CLEAR, {"radius": 2, "downsample": 2}),
    ("flux", dx.GNA, {"window": (3, 5)}),
    ("wan", dx.GNA, {"window": (2, 2, 2)}),
    ("wan2.2", dx.Radial, {"mode": "paper", "dense_steps": 0}),
    ("hunyuan-video", dx.GNA, {"window": (3, 3, 3)}),
    ("sd3", dx.RectifiedSparse, {"keep": 0.3, "block": 16, "dense_steps": 0}),
]


@pytest.mark.parametrize("name, method, settings", METHODS)
@pytest.mark.parametrize("backend", ["triton", "reference"])
def test_it_runs_or_raises(name, method, settings, backend, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    tiny, pipe = built(name)
    with dx.apply(pipe, method(backend=backend, **settings)) as session:
        if backend == "triton":
            with pytest.raises(dx.UnsupportedError, match=r"Triton kernels need a CUDA device|not installed"):
                tiny.run(pipe, steps=2)
            assert session.report().engaged[0].modules == 0
            return
        tiny.run(pipe, steps=2)
    (found,) = session.report().engaged
    assert found.backends == {backend: found.modules} and found.stayed_dense == {}
    assert found.modules == len(session.report().sites)


@pytest.mark.parametrize("name, method, settings", [m for m in METHODS if m[1] is not dx.RectifiedSparse])
def test_flex_runs_or_raises_without_a_compiler(name, method, settings, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    tiny, pipe = built(name)
    with (
        dx.apply(pipe, method(backend="flex", **settings)) as session,
        pytest.raises(dx.UnsupportedError, match=f"{method.name}: (FlexAttention|the FlexAttention)"),
    ):
        tiny.run(pipe, steps=2)
    assert session.report().engaged[0].modules == 0
