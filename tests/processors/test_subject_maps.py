"""Maps of subjects against attention written out, and masks that are apart."""

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0

import diffusers_ext as dx
from diffusers_ext.processors.subject_maps import SubjectMaps, subject_masks

from ..close import alike
from ..hosts import HOSTS, host, processors

PROMPTS = ["a cat", "the cat and a dog"]
WORDS = [["cat"], ["cat", "dog"]]
LETTERS = [[[2, 3, 4]], [[4, 5, 6], [11, 12, 13]]]  # tokens of the words; the first one is the start


class Noting(AttnProcessor2_0):
    """Stock attention that adds up its maps to the text, averaged over heads."""

    def __init__(self):
        super().__init__()
        self.total = 0.0

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, **kwargs):
        if encoder_hidden_states is not None:
            q, k = (
                attn.head_to_batch_dim(to(x))
                for to, x in ((attn.to_q, hidden_states), (attn.to_k, encoder_hidden_states))
            )
            maps = attn.get_attention_scores(q, k).unflatten(0, (-1, attn.heads)).mean(1)
            self.total = self.total + maps[-len(PROMPTS) :]
        return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask)


@pytest.mark.parametrize("name", ["sd", "sdxl"])
@pytest.mark.parametrize("cfg", [False, True])
def test_maps_are_summed_over_steps_and_pictures_keep_their_bits(name, cfg):
    tiny = host(name)
    pipe = tiny.build()
    stock = processors(pipe.unet)
    noting = {n: Noting() for n in stock}
    pipe.unet.set_attn_processor({f"{n}.processor": p for n, p in noting.items()})
    tiny.run(pipe, prompt=PROMPTS, cfg=cfg)
    pipe.unet.set_attn_processor({f"{n}.processor": p for n, p in stock.items()})
    plain = tiny.run(pipe, prompt=PROMPTS, cfg=cfg)
    method = SubjectMaps(WORDS)
    with dx.apply(pipe, method) as session:
        for _ in range(2):  # the second run forgets the first
            assert torch.equal(tiny.run(pipe, prompt=PROMPTS, cfg=cfg), plain)
    cores = session.cores(method)
    assert len(cores) == len(stock) / 2
    for site, core in cores.items():
        total = noting[site.name].total
        side = int(total.shape[1] ** 0.5)
        for row, tokens in enumerate(LETTERS):
            each = total[row] / total[row].mean(0)
            wanted = torch.stack([each[:, t].mean(-1) for t in tokens]).unflatten(1, (side, side))
            alike(core.maps(row, (side, side)), wanted)
    masks = subject_masks(cores, session.run.layout)
    assert [m.shape[0] for m in masks] == [1, 2] and not (masks[1][0] & masks[1][1]).any()
    assert all(m.dtype == torch.bool for m in masks)


def test_a_picture_without_subjects_has_no_masks():
    tiny = host("sd")
    pipe, method = tiny.build(), SubjectMaps([["cat"], []])
    with dx.apply(pipe, method) as session:
        tiny.run(pipe, prompt=["a cat", "a fish"])
    masks = subject_masks(session.cores(method), session.run.layout)
    assert masks[0].shape == (1, 16, 16) and masks[1].shape == (0, 16, 16)


def test_words_that_are_not_there():
    tiny = host("sd")
    pipe = tiny.build()
    with (
        dx.apply(pipe, SubjectMaps([["dog"]])),
        pytest.raises(dx.MethodError, match="'dog' is not in 'a cat'"),
    ):
        tiny.run(pipe, prompt=["a cat"])
    with dx.apply(pipe, SubjectMaps(WORDS)), pytest.raises(dx.MethodError, match="words of 2 prompts, got 1"):
        tiny.run(pipe, prompt=["a cat"])


@pytest.mark.parametrize("tiny", [h for h in HOSTS if h.name not in ("sd", "sdxl")], ids=lambda h: h.name)
def test_models_without_cross_attention_to_the_prompt(tiny):
    with pytest.raises(dx.UnsupportedError, match="subject_maps acts in cross-attention"):
        dx.apply(tiny.build(), SubjectMaps(WORDS))
