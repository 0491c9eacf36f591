"""NAG: two attentions written out, its limits, and both forms of classifier-free guidance."""

import copy
import inspect

import pytest
import torch

import diffusers_ext as dx
from diffusers_ext.families.denoisers import denoisers
from diffusers_ext.processors.nag import guided

from ..close import alike
from ..hosts import HOSTS, built
from ..tiny_models import flux, sd3, unet, wan
from . import nag_oracles

TAKES = [h for h in HOSTS if h.name not in ("hunyuan-video", "skyreels", "mochi")]
takers = pytest.mark.parametrize("host", TAKES, ids=lambda host: host.name)
TEXT = 18  # tokens of the tiny prompts in the calls below: `max_sequence_length`, and 77 for CLIP
DOUBLE = torch.float64


def calls():
    """Name -> pipeline and the arguments of a denoiser call, in float64."""
    sd, xl, wans = unet.pipeline(), unet.pipeline(sdxl=True), wan.pipeline()
    sd3s = sd3.pipeline(qk_norm="rms_norm", dual_attention_layers=(0,))
    clip = sd3s.tokenizer_max_length
    yield "sd", sd, unet.inputs(2, text=sd.tokenizer.model_max_length, dtype=DOUBLE)
    yield "sdxl", xl, unet.inputs(2, sdxl=True, text=xl.tokenizer.model_max_length, dtype=DOUBLE)
    yield "sd3.5", sd3s, sd3.inputs(2, text=clip + TEXT, dtype=DOUBLE)
    yield "flux", flux.pipeline(), flux.inputs(2, text=TEXT, dtype=DOUBLE)
    yield "wan", wans, wan.inputs(2, text=TEXT, dtype=DOUBLE)


def encoded(pipe, name, text):
    """The text as the pipeline encodes a prompt, by the arguments that its class takes."""
    length = {} if name in ("sd", "sdxl") else {"max_sequence_length": TEXT}
    more = {"sd3.5": {"prompt_2": None, "prompt_3": None}, "flux": {"prompt_2": None}}.get(name, {})
    off = {} if name == "flux" else {"do_classifier_free_guidance": False}
    copies = {"num_videos_per_prompt": 1} if name == "wan" else {"num_images_per_prompt": 1}
    return pipe.encode_prompt(text, device="cpu", **copies, **off, **length, **more)[0].to(DOUBLE)


CALLS = {name: (pipe, call) for name, pipe, call in calls()}


@pytest.mark.parametrize("name", CALLS)
@torch.no_grad()
def test_equals_two_attentions_written_out(name):
    pipe, call = CALLS[name]
    (model,) = denoisers(pipe).values()
    model.to(DOUBLE)
    plain = model(**call)[0]
    oracle = copy.deepcopy(model)
    settings = dict(scale=7.0, tau=1.5, alpha=0.4)
    wanted = nag_oracles.predict(oracle, call, encoded(pipe, name, "green"), settings)
    with dx.apply(pipe, dx.NAG("green", **settings), cfg="none") as session:
        got = model(**call)[0]
    assert session.report().second_texts == 1
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)  # time is embedded in fp32
    assert (wanted - plain).abs().max() > 1e-3
    other = nag_oracles.predict(oracle, call, encoded(pipe, name, "a blue star"), settings)
    assert (wanted - other).abs().max() > 1e-4, "the text does not matter"


def test_the_bound_on_length_holds_token_by_token():
    draw = torch.Generator().manual_seed(0)
    positive, negative = (torch.randn(2, 5, 3, 4, generator=draw, dtype=DOUBLE) for _ in range(2))
    positive[0, 0] = 0
    out = guided(positive, negative, 9.0, 1.5, 1.0)
    ratio = out.abs().sum((2, 3)) / positive.abs().sum((2, 3))
    assert out[0, 0].abs().max() == 0 and (ratio[ratio.isfinite()] <= 1.5 + 1e-12).all()
    assert (ratio[ratio.isfinite()] > 1.4).any()  # far from the limit nothing would be tested
    flat = (x.flatten(2) for x in (positive, negative))
    torch.testing.assert_close(
        out.flatten(2)[:, 1:], nag_oracles.guided(*flat, 9.0, 1.5, 1.0)[:, 1:], rtol=1e-12, atol=1e-12
    )
    assert torch.equal(guided(positive, negative, 9.0, 1.5, 0.0), positive)


@takers
@pytest.mark.parametrize("cfg", [False, True], ids=["plain", "cfg"])
def test_scale_one_and_alpha_zero_are_bit_equal_and_take_no_second_text(host, cfg):
    pipe = host.build()
    stock = host.run(pipe, cfg=cfg)
    for off in (dict(scale=1.0), dict(alpha=0.0)):
        with dx.apply(pipe, dx.NAG("green", **off)) as session:
            assert torch.equal(host.run(pipe, cfg=cfg), stock)
        assert session.report().second_texts == 0
    with dx.apply(pipe, dx.NAG("green")) as session:
        assert (host.run(pipe, cfg=cfg) - stock).abs().max() > 1e-3
        assert session.report().second_texts == 3 and session.report().extra_passes == 0
    assert torch.equal(host.run(pipe, cfg=cfg), stock)


@takers
def test_a_negative_prompt_that_is_the_prompt_changes_nothing(host):
    pipe = host.build()
    stock = host.run(pipe, cfg=True)
    with dx.apply(pipe, dx.NAG("a red circle")):
        alike(host.run(pipe, cfg=True), stock)


@pytest.mark.parametrize("name", ["sd", "sd3.5"])
@torch.no_grad()
def test_unconditional_rows_of_one_batch_stay(name):
    pipe, call = CALLS[name]
    (model,) = denoisers(pipe).values()
    model.to(DOUBLE)
    first = next(k for k in ("sample", "hidden_states") if k in call)
    call = call | {first: call[first][:1].repeat(2, 1, 1, 1)}
    stock = model(**call)[0]
    with dx.apply(pipe, dx.NAG("green"), cfg="none"):
        alone = model(**call)[0]
    with dx.apply(pipe, dx.NAG("green"), cfg="batch"):
        both = model(**call)[0]
    torch.testing.assert_close(both[:1], stock[:1], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(both[1:], alone[1:], rtol=1e-9, atol=1e-9)
    assert (both[1:] - stock[1:]).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["flux", "wan"])
@torch.no_grad()
def test_unconditional_calls_stay(name):
    pipe, call = CALLS[name]
    (model,) = denoisers(pipe).values()
    model.to(DOUBLE)
    stock = model(**call)[0]
    with dx.apply(pipe, dx.NAG("green"), cfg="two_calls") as session:
        first, second = model(**call)[0], model(**call)[0]
    assert torch.equal(second, stock) and not torch.equal(first, stock)
    assert session.report().second_texts == 1


def test_the_text_is_encoded_once_in_a_run_at_the_length_of_its_prompts(monkeypatch):
    host, pipe = built("flux")
    asked, encode = [], type(pipe).encode_prompt

    def seen(self, prompt, *args, **kwargs):
        asked.append((prompt, kwargs["max_sequence_length"], torch.is_grad_enabled()))
        return encode(self, prompt, *args, **kwargs)

    seen.__signature__ = inspect.signature(encode)
    monkeypatch.setattr(type(pipe), "encode_prompt", seen)
    with dx.apply(pipe, dx.NAG("green")):
        for length in (16, 16, 12):
            host.run(pipe, max_sequence_length=length)
    assert [a for a in asked if a[0] == "green"] == [("green", length, False) for length in (16, 16, 12)]


def test_words_and_weights_that_come_between_two_runs_hold_for_the_text():
    host, pipe = built("sd")
    with dx.apply(pipe, dx.NAG("a <cat>")):
        before = host.run(pipe)
        pipe.load_textual_inversion(torch.randn(2, 32), token="<cat>")
        words = host.run(pipe)
        with torch.no_grad():
            pipe.text_encoder.get_input_embeddings().weight.mul_(2.0)
        weights = host.run(pipe)
    assert not torch.equal(before, words) and not torch.equal(words, weights)
    with dx.apply(pipe, dx.NAG("a <cat>")):
        assert torch.equal(host.run(pipe), weights)


def test_clip_skip_of_the_call_holds_for_the_text():
    host, pipe = built("sd3")
    plain, other = host.run(pipe, clip_skip=1), host.run(pipe)
    with dx.apply(pipe, dx.NAG("a red circle")):  # the prompt itself as the negative one
        alike(host.run(pipe), other)
        alike(host.run(pipe, clip_skip=1), plain)
    assert (plain - other).abs().max() > 1e-3


def test_image_tokens_of_an_image_to_video_model_stay_apart():
    """The text keys are the last 512 of the prompt, whatever stands behind them."""
    pipe = wan.pipeline(**wan.IMAGE_TO_VIDEO)
    call = wan.inputs(1, text=512, image=5)
    model = pipe.transformer
    with torch.no_grad():
        stock = model(**call)[0]
        text = pipe.encode_prompt("green", do_classifier_free_guidance=False, max_sequence_length=512)[0]
        same = call | {"encoder_hidden_states": text}
        wanted = model(**same)[0]
        with dx.apply(pipe, dx.NAG("green"), cfg="none"):
            alike(model(**same)[0], wanted)
            assert (model(**call)[0] - stock).abs().max() > 1e-4


def test_a_second_denoiser_without_a_guided_module_gets_no_second_text():
    host, pipe = built("wan2.2")
    with dx.apply(pipe, dx.NAG("green", layers=["transformer_2.blocks.0"])) as session:
        host.run(pipe)
    assert session.report().second_texts == 2  # of three steps, the last two


def test_the_report_counts_calls_with_a_second_text():
    host, pipe = built("sd")
    with dx.apply(pipe, dx.NAG("green")) as session:
        host.run(pipe)
    assert "3 times a second text came along" in str(session.report())
    assert session.report().to_dict()["second_texts"] == 3
