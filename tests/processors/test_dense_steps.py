"""Dense first steps: how many there are, and that they hide no settings which do not fit."""

import pytest

import diffusers_ext as dx

from ..hosts import built, host


@pytest.mark.parametrize(
    "setting, steps, dense",
    [(0.24, 50, 12), (0.3, 10, 3), (0.3, 1, 0), (0.9, 2, 1), (1.0, 1, 1), (0.0, 1, 0), (12, 8, 8)],
)
def test_a_share_below_one_leaves_a_step_sparse(setting, steps, dense):
    assert dx.CLEAR(dense_steps=setting).first_dense(steps) == dense


@pytest.mark.parametrize(
    "name, method, words",
    [
        ("sd3", dx.Radial(dense_steps=2), "Radial thins out frames"),
        ("sd3", dx.GNA((64, 64), dense_steps=2), "must fit into the grid"),
        ("sd", dx.GNA((64, 64), dense_steps=2), "must fit into the grid"),
        ("wan", dx.GNA((2, 2, 2), dense_steps=2, backend="triton"), "Triton"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_first_dense_step(name, method, words, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    tiny, finished = host(name), []

    def done(pipe, step, timestep, tensors):
        finished.append(step)
        return tensors

    pipe = tiny.build()
    with dx.apply(pipe, method), pytest.raises(ValueError, match=words):
        tiny.run(pipe, callback_on_step_end=done)
    assert finished == []


def test_a_share_runs_in_the_only_step():
    tiny, pipe = built("sd3")
    plain = tiny.run(pipe, steps=1).clone()
    with dx.apply(pipe, dx.GNA((3, 3), backend="reference")) as session:
        assert not plain.equal(tiny.run(pipe, steps=1))
    assert {s.backend for s in session.report().sites} == {"reference"}
