"""StructuredGuidance against averages of attentions that are written out, on tiny SD and SDXL pipelines."""

import inspect
from contextlib import contextmanager

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0

import diffusers_ext as dx

from ..close import alike, close
from ..hosts import HOSTS, host, processors
from ..tiny_models import unet

PROMPT = "a red cat and a blue dog"  # one token a letter
both = pytest.mark.parametrize("name", ["sd", "sdxl"])
FORMS = ("mean", "conjunction", "conjunction_release")


def span(prompt, phrase):
    """Tokens of a phrase where each letter is a token, with the start token in front."""
    start = prompt.index(phrase)
    before = len(prompt[:start].replace(" ", ""))
    return slice(1 + before, 1 + before + len(phrase.replace(" ", "")))


def embedded(pipe, text):
    """The embedding of a text by the pipeline itself, `[L, C]`."""
    known = inspect.signature(type(pipe).encode_prompt).parameters
    given = dict(prompt=text, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False)
    return pipe.encode_prompt(**{k: v for k, v in given.items() if k in known})[0][0]


def aligned(pipe, prompt, phrases):
    """The prompt, and the prompt with each phrase in its place, and that with all of them."""
    c0 = embedded(pipe, prompt)
    texts, merged = [c0], c0.clone()
    for phrase in phrases:
        where, alone = span(prompt, phrase), embedded(pipe, phrase)
        text = c0.clone()
        text[where] = merged[where] = alone[1 : 1 + where.stop - where.start]
        texts.append(text)
    return texts, merged


class Explicit(AttnProcessor2_0):
    """Stock cross-attention for each pair of a text for keys and one for values, averaged row by row."""

    def __init__(self, rows):
        super().__init__()
        self.rows = rows  # for each row of the batch the pairs, or none for stock

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, **kwargs):
        if encoder_hidden_states is None:
            return super().__call__(attn, hidden_states, None, attention_mask)
        outs = []
        for row, pairs in enumerate(self.rows):
            image, own = hidden_states[row : row + 1], encoder_hidden_states[row : row + 1]
            q = attn.head_to_batch_dim(attn.to_q(image))
            each = []
            for key, value in pairs or [(own[0], own[0])]:
                k, v = (
                    attn.head_to_batch_dim(to(text[None]))
                    for to, text in ((attn.to_k, key), (attn.to_v, value))
                )
                each.append(attn.batch_to_head_dim(attn.get_attention_scores(q, k) @ v))
            outs.append(sum(each) / len(each))
        return attn.to_out[1](attn.to_out[0](torch.cat(outs)))


def explicit(tiny, pipe, rows, **run):
    stock = processors(pipe.unet)
    pipe.unet.set_attn_processor({f"{name}.processor": Explicit(rows) for name in stock})
    out = tiny.run(pipe, **run)
    pipe.unet.set_attn_processor({f"{name}.processor": p for name, p in stock.items()})
    return out


def pairs(form, texts, merged):
    if form == "mean":
        return [(texts[0], text) for text in texts]
    keys = texts if form == "conjunction" else [merged, *texts[1:]]
    return [(key, merged) for key in keys]


@both
@pytest.mark.parametrize("form", FORMS)
def test_it_is_the_average_over_all_texts(name, form):
    """Two prompts with two phrases and one; the unconditional rows are plain."""
    tiny, prompts = host(name), [PROMPT, "then a green owl"]
    pipe = tiny.build()
    phrases = [["a red cat", "a blue dog"], ["a green owl"]]
    with torch.no_grad():
        rows = [pairs(form, *aligned(pipe, p, ps)) for p, ps in zip(prompts, phrases, strict=True)]
    run = dict(cfg=True, prompts=2, prompt=prompts, steps=2)
    wanted = explicit(tiny, pipe, [None, None, *rows], **run)
    plain = tiny.run(pipe, **run)
    assert (wanted - plain).abs().max() > 1e-3
    for method in (dx.StructuredGuidance(form=form), dx.StructuredGuidance(phrases, form)):
        with dx.apply(pipe, method):
            alike(tiny.run(pipe, **run), wanted)
    assert torch.equal(tiny.run(pipe, **run), plain)


def test_the_mean_of_values_is_exact():
    """One attention with the mean text, and k + 1 attentions, in fp64 on one module."""
    attn = unet.unet().double().mid_block.attentions[0].transformer_blocks[0].attn2
    draw = torch.Generator().manual_seed(0)
    image, *texts = (torch.randn(1, n, 32, generator=draw, dtype=torch.float64) for n in (20, 7, 7, 7))
    q, k = attn.head_to_batch_dim(attn.to_q(image)), attn.head_to_batch_dim(attn.to_k(texts[0]))
    scores = attn.get_attention_scores(q, k)
    each = [scores @ attn.head_to_batch_dim(attn.to_v(text)) for text in texts]
    once = scores @ attn.head_to_batch_dim(attn.to_v(sum(texts) / 3))
    assert (sum(each) / 3 - once).abs().max() < 1e-12


@contextmanager
def remarked_once():
    with pytest.warns(UserWarning, match="structured changes nothing for a prompt without phrases") as found:
        yield
    assert sum("without phrases" in str(warning.message) for warning in found) == 1


@both
@pytest.mark.parametrize("form", FORMS)
def test_without_phrases_it_is_the_plain_model(name, form):
    tiny = host(name)
    pipe, run = tiny.build(), dict(cfg=True, prompt="cats", steps=2, generator=None)
    run["latents"] = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    plain = tiny.run(pipe, **run)
    with dx.apply(pipe, dx.StructuredGuidance(form=form)), remarked_once():
        assert torch.equal(tiny.run(pipe, **run), plain)


def test_one_of_two_prompts_without_phrases_is_remarked():
    tiny = host("sd")
    pipe, run = tiny.build(), dict(prompts=2, prompt=[PROMPT, "cats"], steps=2)
    plain = tiny.run(pipe, **run)
    with dx.apply(pipe, dx.StructuredGuidance()), remarked_once():
        ours = tiny.run(pipe, **run)
    close(ours[1], plain[1], 1 << 12)
    assert not torch.allclose(ours[0], plain[0], atol=1e-4)


def test_a_phrase_that_reads_the_same_alone_changes_nothing():
    """CLIP reads from left to right, so what a prompt begins with is read as it is alone."""
    tiny = host("sd")
    pipe = tiny.build()
    plain = tiny.run(pipe, prompt=[PROMPT])
    with dx.apply(pipe, dx.StructuredGuidance(["a red cat"])):
        alike(tiny.run(pipe, prompt=[PROMPT]), plain)
    with dx.apply(pipe, dx.StructuredGuidance(["blue dog"])):
        assert not torch.allclose(tiny.run(pipe, prompt=[PROMPT]), plain, atol=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_unconditional_rows_keep_their_bits(form):
    tiny = host("sd")
    pipe, seen = tiny.build(), []
    first = pipe.unet.down_blocks[0].attentions[0].transformer_blocks[0].attn2
    first.register_forward_hook(lambda m, args, out: seen.append(out))
    run = dict(cfg=True, prompt=[PROMPT], steps=1)
    tiny.run(pipe, **run)
    with dx.apply(pipe, dx.StructuredGuidance(form=form)):
        tiny.run(pipe, **run)
    plain, ours = seen
    assert torch.equal(plain[0], ours[0]) and not torch.equal(plain[1], ours[1])


@pytest.mark.parametrize("form", FORMS)
def test_the_order_of_phrases_does_not_matter(form):
    tiny = host("sd")
    pipe, outs = tiny.build(), []
    for phrases in (["red cat", "blue dog"], ["blue dog", "red cat"]):
        with dx.apply(pipe, dx.StructuredGuidance(phrases, form)):
            outs.append(tiny.run(pipe, prompt=[PROMPT]))
    alike(*outs)


def test_phrases_by_characters_and_by_a_function():
    tiny = host("sd")
    pipe, outs = tiny.build(), []
    place = PROMPT.index("blue dog")
    for phrases in (
        ["blue dog"],
        [[place, place + 8]],
        [(place + 1, place + 7)],
        lambda p: [(place, len(p))],
    ):
        with dx.apply(pipe, dx.StructuredGuidance(phrases)):
            outs.append(tiny.run(pipe, prompt=[PROMPT]))
    assert all(torch.equal(out, outs[0]) for out in outs)


def test_several_pictures_of_a_prompt():
    """Rows are repeated prompt by prompt, as the pipeline repeats them."""
    tiny = host("sd")
    pipe, prompts = tiny.build(), [PROMPT, "then a green owl"]
    noise = torch.randn(4, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    with dx.apply(pipe, dx.StructuredGuidance()):
        run = dict(cfg=True, prompt=prompts, num_images_per_prompt=2, latents=noise, generator=None)
        four = tiny.run(pipe, **run)
        for row in range(4):
            run |= dict(prompt=[prompts[row // 2]], num_images_per_prompt=1, latents=noise[row : row + 1])
            alike(tiny.run(pipe, **run), four[row : row + 1])


def test_texts_are_encoded_once_in_a_run():
    tiny = host("sd")
    pipe, calls = tiny.build(), []
    pipe.text_encoder.register_forward_hook(lambda *_: calls.append(0))
    with dx.apply(pipe, dx.StructuredGuidance()):
        for run in (1, 2):
            tiny.run(pipe, prompt=[PROMPT], cfg=True)
            assert len(calls) == 3 * run  # prompt, negative prompt, phrases


def test_a_search_above_it():
    """Candidates in small groups, with guidance, are those of all at once."""
    pipe = host("sd").build()
    images = []
    for size in (None, 1):
        with dx.apply(pipe, dx.StructuredGuidance(form="conjunction"), dx.SoftPAG(scale=2.0)):
            sampler = dx.BestOfN(n=3, rewards=lambda x, prompts: x.mean((1, 2, 3)), micro_batch=size)
            call = dict(num_inference_steps=2, height=32, width=32, output_type="pt", progress=False)
            prompts = [PROMPT, "then a green owl"]
            found = sampler.sample(pipe, prompts, generator=torch.Generator().manual_seed(0), **call)
            images.append(found.images)
    close(images[0], images[1], 1 << 14)


def test_beside_guidance_and_fused_projections():
    tiny = host("sd")
    pipe, run = tiny.build(), dict(cfg=True, prompt=[PROMPT])
    methods = dx.StructuredGuidance(), dx.SoftPAG(scale=2.0)
    with dx.apply(pipe, *methods) as session:
        wanted = tiny.run(pipe, **run)
    assert session.report().extra_passes == 3
    with dx.apply(pipe, methods[0], dx.SoftPAG(scale=0.0)):
        assert not torch.allclose(tiny.run(pipe, **run), wanted, atol=1e-4)
    pipe.fuse_qkv_projections()
    with dx.apply(pipe, *methods):
        alike(tiny.run(pipe, **run), wanted)


@pytest.mark.parametrize(
    "settings, words",
    [
        (
            dict(phrases=["green dog"]),
            r"structured phrases are words of the prompt, but 'green dog' is not in",
        ),
        (dict(phrases=["a", "a", "a"]), "a time number 3"),
        (dict(phrases=["  "]), "got an empty text"),
        (dict(phrases=[[3, 99]]), "first, end"),
        (dict(phrases=[["red cat"], ["x"]]), "has 2 lists, one for each prompt, but the call has 1 prompts"),
        (dict(phrases=["red cat", "cat"], form="conjunction"), "overlap"),
    ],
)
def test_phrases_that_do_not_fit(settings, words):
    tiny = host("sd")
    pipe = tiny.build()
    plain = tiny.run(pipe, prompt=[PROMPT])
    with pytest.raises(dx.MethodError, match=words), dx.apply(pipe, dx.StructuredGuidance(**settings)):
        tiny.run(pipe, prompt=[PROMPT])
    assert torch.equal(tiny.run(pipe, prompt=[PROMPT]), plain)


def test_phrases_behind_the_end_of_what_is_seen():
    tiny = host("sd")
    pipe, long = tiny.build(), "the grey wolves of these woods and a red fox"
    words = "'a red fox' is cut off, since the text encoder sees 32 tokens"
    with pytest.raises(dx.MethodError, match=words), dx.apply(pipe, dx.StructuredGuidance(["a red fox"])):
        tiny.run(pipe, prompt=[long])
    with dx.apply(pipe, dx.StructuredGuidance()):  # found by rules, and left out
        tiny.run(pipe, prompt=[long])


@pytest.mark.parametrize(
    "bad", [dict(phrases=[]), dict(phrases=""), dict(phrases=[["a"], []]), dict(form="x"), dict(phrases=3)]
)
def test_settings_that_do_not_fit(bad):
    with pytest.raises(dx.MethodError):
        dx.StructuredGuidance(**bad)


def test_calls_without_words_are_refused():
    tiny = host("sd")
    pipe = tiny.build()
    text = embedded(pipe, PROMPT)[None]
    short = dict(guidance_scale=1.0, num_inference_steps=1, height=32, width=32)
    words = "without prompt= as text"
    with dx.apply(pipe, dx.StructuredGuidance()), pytest.raises(dx.UnsupportedError, match=words):
        pipe(prompt_embeds=text, **short)
    with pytest.raises(dx.UnsupportedError, match="apply it to the pipeline"):
        dx.apply(pipe.unet, dx.StructuredGuidance())
    pipe = host("sdxl").build()
    with (
        dx.apply(pipe, dx.StructuredGuidance()),
        pytest.raises(dx.UnsupportedError, match="prompt_2 differs"),
    ):
        pipe("a cat", prompt_2="a dog", num_inference_steps=1, height=32, width=32)


@pytest.mark.parametrize("tiny", [h for h in HOSTS if h.name not in ("sd", "sdxl")], ids=lambda h: h.name)
def test_models_without_cross_attention_to_the_prompt(tiny):
    pipe = tiny.build()
    with pytest.raises(dx.UnsupportedError, match="structured acts in cross-attention on the words"):
        dx.apply(pipe, dx.StructuredGuidance())
    dx.apply(pipe).close()  # nothing was left behind
