"""The engagement of a session: where and when each method ran, what it kept, and what attention cost."""

import json
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

import diffusers_ext as dx
from diffusers_ext.core import Method, Slot
from diffusers_ext.session import timing
from diffusers_ext.session.sentences import sentences, spans_of
from diffusers_ext.session.timing import SiteTimer, Timer

from ..hosts import built, host
from ..kernels import oracles


class Watch(Method):
    """Notes by site and step whether attention below differs from that over all keys."""

    name = "watch"
    slots = frozenset({Slot.OBSERVE})
    order_free = True

    def __init__(self):
        self.sparse, self.seen = set(), set()

    def select(self, sites):
        return [s for s in sites if s.kind != "cross"]

    def bind(self, site, run, inner):
        def core(q, k, v, mask, layout):
            out = inner(q, k, v, mask, layout)
            full = F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v)), attn_mask=mask)
            self.seen.add((site.path, run.step))
            if (out - full.transpose(1, 2))[:, layout.vision].abs().max() > 1e-4:
                self.sparse.add((site.path, run.step))
            return out

        return core


@pytest.mark.parametrize(
    "name, method",
    [
        ("sd3", dx.CLEAR(2, backend="reference", dense_steps=1, dense_layers=1)),
        ("sd", dx.CLEAR(2, backend="reference", dense_steps=0.4)),
        ("flux", dx.GNA((3, 5), backend="reference", dense_steps=2)),
        ("wan2.2", dx.Radial(mode="paper", backend="reference", dense_steps=1)),
        ("mochi", dx.GNA((3, 3, 3), backend="reference", dense_steps=1)),
    ],
    ids=lambda x: getattr(x, "name", x),
)
def test_a_sparse_method_ran_where_attention_is_not_dense(name, method):
    """The oracle compares each attention with a dense one."""
    tiny, pipe = built(name)
    watch = Watch()
    with dx.apply(pipe, method, watch) as session:
        tiny.run(pipe, cfg=True, steps=4)
    found, _ = session.report().engaged
    ran = {path for path, _ in watch.sparse}
    assert found.modules == len(ran) and found.of == len({path for path, _ in watch.seen})
    assert found.steps == {4: sorted({step for _, step in watch.sparse})}
    assert found.backends == {"reference": len(ran)}
    assert found.of_calls == session.report().denoiser_calls > found.calls > 0


def test_the_share_of_pairs_is_that_of_the_masks():
    tiny, pipe = built("sd")
    with dx.apply(pipe, dx.CLEAR(2, backend="reference")) as session:
        tiny.run(pipe, steps=2)
    (found,) = session.report().engaged
    kept = every = 0
    for site in (s for d in dx.summary(pipe).denoisers for s in d[3] if s.kind == "self"):
        side = 16 // 2**site.level  # of 32 px, in latents of 2 px
        mask = oracles.disk((1, side, side), 2)
        kept, every = kept + site.heads * int(mask.sum()), every + site.heads * mask.numel()
    assert found.kept == pytest.approx(kept / every)


@pytest.mark.parametrize(
    "name, method, sentence",
    [
        (
            "sd",
            dx.SoftPAG(heads={host("sd").layer: None}, start=0.5),
            "softpag ran in 1 of 4 self-attention modules at steps 3 to 4 of 4.",
        ),
        (
            "sd",
            dx.NAG("green", stop=0.5),
            "nag ran in 4 of 4 cross-attention modules at steps 1 to 2 of 4.",
        ),
        (
            "sd",
            dx.NAG("green", layers=["mid_block"]),
            "nag ran in 1 of 4 cross-attention modules at steps 1 to 4 of 4.",
        ),
        (
            "sd",
            dx.AStar(segregation=0.0, retention=1.0, halvings=1, stop=0.25),
            "astar ran in 1 of 4 cross-attention modules at step 1 of 4.",
        ),
        (
            "sd",
            dx.StructuredGuidance(),
            "structured ran in 4 of 4 cross-attention modules at steps 1 to 4 of 4.",
        ),
        ("wan", dx.NAG("green"), "nag ran in 2 of 2 cross-attention modules at steps 1 to 4 of 4."),
    ],
)
def test_other_methods_say_where_they_acted(name, method, sentence):
    tiny, pipe = built(name)
    with dx.apply(pipe, method) as session:
        tiny.run(pipe, cfg=True, steps=4)
    assert session.report().engagement()["sentences"] == [sentence]
    assert session.report().attention is None


def test_a_method_that_never_acted_says_so():
    tiny, pipe = built("sd3")
    with dx.apply(pipe, dx.SoftPAG(scale=0.0)) as session:
        assert session.report().engagement()["sentences"] == ["softpag has not run yet."]
        tiny.run(pipe)
    assert session.report().engagement()["sentences"] == ["softpag acted in none of 3 calls of the denoiser."]


def test_auto_that_stays_dense_says_so_in_the_sentence():
    tiny, pipe = built("sd3")
    with dx.apply(pipe, dx.CLEAR(2)) as session:
        tiny.run(pipe)
    (sentence,) = session.report().engagement()["sentences"]
    assert sentence.startswith(
        "clear stayed dense in all 3 joint attention modules (no gain expected, the plan"
    )


def test_runs_of_several_lengths_are_kept_apart_and_a_bare_denoiser_has_calls():
    tiny, pipe = built("sd3")
    with dx.apply(pipe, dx.CLEAR(2, backend="reference", dense_steps=0.5)) as session:
        tiny.run(pipe, steps=4)
        tiny.run(pipe, steps=2)
    assert session.report().engaged[0].steps == {4: [2, 3], 2: [1]}
    assert "at steps 3 to 4 of 4 and 2 of 2, on" in session.report().engagement()["sentences"][0]
    with dx.apply(pipe.transformer, dx.CLEAR(2, backend="reference")) as session:
        pipe.transformer(
            hidden_states=torch.zeros(1, 4, 8, 8),
            encoder_hidden_states=torch.zeros(1, 3, pipe.transformer.config.joint_attention_dim),
            pooled_projections=torch.zeros(1, pipe.transformer.config.pooled_projection_dim),
            timestep=torch.tensor([1.0]),
        )
    assert "modules in 1 of 1 calls, on reference" in session.report().engagement()["sentences"][0]


def test_attention_is_timed_inside_the_time_of_the_denoiser():
    tiny, pipe = built("sd")
    with dx.apply(pipe, dx.CLEAR(2, backend="reference", dense_steps=1)) as session:
        tiny.run(pipe, steps=3)
    time, report = session.report().attention, session.report()
    assert min(time.dense, time.sparse) > 0
    assert time.dense + time.sparse < time.denoiser == report.seconds
    assert (time.timed, time.untimed) == (4, 4) and time.dense_share == time.dense / time.denoiser
    assert time.ideal > 0 and time.estimated > 0


def test_gains_follow_from_the_seconds():
    """Ten seconds in all; a sparse call takes one second where a dense one takes two."""
    tiny, pipe = built("sd3")
    with dx.apply(pipe, dx.CLEAR(2, backend="reference", dense_steps=1)) as session:
        tiny.run(pipe, steps=3)
        kept = session.report().engaged[0].kept
        for hook in session._hooks:
            hook.timer = seconds(10.0)
        for swap in session._swaps:
            for ours in swap.processors.values():
                assert (ours.timer.dense_calls, ours.timer.sparse_calls) == (1, 2)
                ours.timer.dense, ours.timer.sparse = seconds(2 / 3), seconds(2 / 3)
        time = session.report().attention
    assert (time.sparse, time.dense) == (pytest.approx(2.0), pytest.approx(2.0))
    assert time.estimated == pytest.approx(12 / 10)  # two seconds became one, twice
    assert time.ideal == pytest.approx(12 / (8 + 4 * kept))
    assert time.dense_share == pytest.approx(0.2)


def seconds(value: float) -> Timer:
    timer = Timer()
    timer.add(0.0, value)
    return timer


def test_no_gain_is_given_without_dense_calls():
    tiny, pipe = built("sd3")
    with dx.apply(pipe, dx.CLEAR(2, backend="reference")) as session:
        tiny.run(pipe)
    time = session.report().attention
    assert time.ideal is None and time.estimated is None and time.dense == 0
    (sentence,) = session.report().engagement()["sentences"]
    assert sentence.endswith("; no call that was timed stayed dense; not measured beside a plain run.")


def test_compiled_blocks_count_as_planned_and_are_not_timed():
    tiny, pipe = built("sd3")
    method = dx.CLEAR(2, backend="reference", dense_steps=1)
    for block in pipe.transformer.transformer_blocks:
        block.compile(backend="eager")
    with dx.apply(pipe, method) as session:
        tiny.run(pipe, steps=3)
    (found,) = session.report().engaged
    assert (found.modules, found.steps, found.backends) == (3, {3: [1, 2]}, {"reference": 3})
    assert {site.calls for site in session.report().sites} == {0}
    time = session.report().attention
    assert (time.timed, time.sparse, time.ideal) == (0, 0.0, None) and time.dense_share is None
    assert "attention in compiled blocks is not timed" in session.report().engagement()["sentences"][0]


def test_a_module_that_no_call_reaches_did_not_run():
    tiny, pipe = built("sd3")
    block = pipe.transformer.transformer_blocks[1]
    block.forward = lambda hidden_states, encoder_hidden_states, **_: (encoder_hidden_states, hidden_states)
    with dx.apply(pipe, dx.CLEAR(2, backend="reference")) as session:
        tiny.run(pipe)
    assert session.report().engaged[0].modules == 2


def test_modules_of_other_methods_are_timed_as_dense():
    tiny, pipe = built("sd3")
    with dx.apply(pipe, dx.CLEAR(2, backend="reference", dense_layers=2), dx.NAG("green")) as session:
        tiny.run(pipe)
    timers = [ours.timer for swap in session._swaps for ours in swap.processors.values()]
    # the second text is a second attention in each call, inside the same one
    assert [(t.sparse_calls > 0, t.dense_calls > 0) for t in timers] == [(False, True)] * 2 + [(True, False)]


def test_a_timer_of_a_site_leaves_out_calls_that_fail():
    timer = SiteTimer(lambda: True)
    with pytest.raises(ZeroDivisionError), timer:
        _ = 1 / 0
    assert (timer.sparse_calls, timer.dense_calls, timer.sparse.seconds) == (0, 0, 0.0)


@pytest.mark.parametrize("acted", [True, False])
def test_a_call_in_which_cuda_starts_is_left_out(monkeypatch, acted):
    clock = [1.0, object(), 2.0, 4.5]  # an event has no difference from a float
    monkeypatch.setattr(timing, "now", lambda: clock.pop(0))
    timer = SiteTimer(lambda: acted)
    for _ in range(2):
        with timer:
            pass
    assert (timer.sparse_calls, timer.sparse.seconds) == ((1, 2.5) if acted else (0, 0.0))
    assert (timer.dense_calls, timer.dense.seconds) == ((0, 0.0) if acted else (1, 2.5))
    clock[:] = [1.0, object(), 2.0, 4.5]
    whole = Timer()
    for _ in range(2):
        with whole:
            pass
    assert whole.seconds == 2.5


def test_the_engagement_survives_json():
    tiny, pipe = built("sd3")
    with dx.apply(pipe, dx.CLEAR(2, backend="reference", dense_steps=1)) as session:
        tiny.run(pipe)
    found = session.report().to_dict()["engagement"]
    again = json.loads(json.dumps(found))
    assert sentences(again) == found["sentences"] and math.isfinite(again["attention"]["dense_share"])
    assert found["measured"] is None and replace(session.report()).engagement() == found


@pytest.mark.parametrize(
    "steps, text",
    [([0], "1"), ([0, 1, 2], "1 to 3"), ([0, 2, 3, 4], "1 and 3 to 5"), ([0, 2, 5], "1, 3 and 6")],
)
def test_spans(steps, text):
    assert spans_of(steps) == text
