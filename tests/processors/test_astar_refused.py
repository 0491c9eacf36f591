"""AStar refuses what it cannot use, in a sentence."""

import pytest
import torch

import diffusers_ext as dx

from ..close import close
from ..hosts import HOSTS, host
from .astar_oracles import IN_ALL_STEPS, LEFT, PROMPT, TWO, run

SIDES = [[1.0, 0.0]] * 2, [[0.0, 1.0]] * 2  # halves of the picture as rows of numbers


@pytest.mark.parametrize(
    "settings, words",
    [
        (dict(concepts=["cat", "owl"]), "astar concepts are words of the prompt, but 'owl' is not in"),
        (dict(concepts=["cat", " "]), "got an empty text"),
        (dict(concepts=["red cat", "cat"]), "share words"),
        (dict(concepts=[["cat", "dog"]] * 2), "has 2 lists, one for each prompt, but the call has 1"),
        (dict(masks={"owl": [0, 0, 1, 1]}), r"masks are of concepts \(red cat, blue dog\), got 'owl' for 0"),
        (
            dict(masks={"cat": [0, 0, 0.6, 1], "dog": [0.4, 0, 1, 1]}),
            "masks of 'red cat' and 'blue dog' overlap",
        ),
        (dict(masks={"cat": SIDES[0], "dog": [[1.0, 1.0]] * 2}), "'blue dog' overlap; draw them apart"),
        (
            dict(masks={"cat": [0, 0, 0.4, 1], "red cat": [0.6, 0, 1, 1]}),
            "one mask for a concept, got a second one for 'red cat' as 'red cat'; leave one out",
        ),
        (dict(masks={"cat": [[1.0, 0.0]]}), "has 1 x 2 places, but the maps of this picture have 16 x 16"),
        (dict(masks={"cat": [0.0, 0.0, 0.01, 1.0]}), "holds none of the 16 x 16 places"),
    ],
)
def test_what_does_not_fit_the_prompt_or_the_picture(settings, words):
    tiny = host("sd")
    pipe = tiny.build()
    with pytest.raises(dx.MethodError, match=words), dx.apply(pipe, dx.AStar(**(IN_ALL_STEPS | settings))):
        run(tiny, pipe)


def test_masks_that_touch_are_apart():
    """Two columns of the maps stand where they touch: a box ends in the middle of one, and a mask, too."""
    tiny = host("sd")
    pipe, side = tiny.build(), 0.5 + 1 / 32
    for masks in (SIDES, [[0, 0, side, 1], [side, 0, 1, 1]]):
        with dx.apply(
            pipe, dx.AStar(masks=dict(zip(("red cat", "dog"), masks, strict=True)), **IN_ALL_STEPS)
        ):
            run(tiny, pipe)


def test_concepts_that_are_cut_off_or_absent():
    tiny = host("sd")
    pipe, long = tiny.build(), "the grey wolves of these woods and a red fox"
    with pytest.raises(dx.MethodError, match="'fox' is cut off"), dx.apply(pipe, dx.AStar(["wolves", "fox"])):
        run(tiny, pipe, prompt=long)
    with pytest.raises(dx.MethodError, match="found no noun"), dx.apply(pipe, dx.AStar()):
        run(tiny, pipe, prompt="and so it is")


@pytest.mark.parametrize(
    "bad, words",
    [
        (dict(concepts=[]), "got none"),
        (dict(concepts="cat"), "keeps two or more concepts apart, got 1"),
        (dict(concepts=["cat"]), "keeps two or more concepts apart, got 1"),
        (dict(concepts=[["cat", "dog"], ["cat"]]), "keeps two or more"),
        (dict(masks={"cat": [0.5, 0, 0.2, 1]}), r"a box \[left, top, right, bottom\]"),
        (dict(masks={"cat": [0, 0, 2, 1]}), "a box"),
        (dict(masks={"cat": []}), "a box"),
        (dict(masks={"cat": [[0, 0], [0, 0]]}), "rows of numbers"),
        (dict(masks={"cat": [[1, 0], [1]]}), "rows of numbers"),
        (dict(masks=LEFT, loss="attend_and_excite"), "masks are where retention keeps concepts"),
        (dict(masks=LEFT, retention=0), "masks are where retention keeps concepts"),
        (dict(start=0.8, stop=0.2), "start <= stop"),
        (dict(step_size=-1), "step_size"),
        (dict(loss="x"), "loss"),
    ],
)
def test_settings_that_do_not_fit(bad, words):
    with pytest.raises(dx.MethodError, match=words):
        dx.AStar(**(IN_ALL_STEPS | bad))


def test_layers_that_are_not_there():
    with pytest.raises(dx.MethodError, match="halved 0, 1 times in this model, got halvings=4"):
        dx.apply(host("sd").build(), dx.AStar(halvings=4))
    with pytest.raises(dx.UnsupportedError, match="apply it to the pipeline"):
        dx.apply(host("sd").build().unet, dx.AStar())


def test_gradients_are_needed():
    tiny = host("sd")
    pipe = tiny.build()
    with (
        torch.inference_mode(),
        dx.apply(pipe, dx.AStar(TWO)),
        pytest.raises(dx.UnsupportedError, match="inference_mode"),
    ):
        run(tiny, pipe)


@pytest.mark.parametrize("tiny", [h for h in HOSTS if h.name not in ("sd", "sdxl")], ids=lambda h: h.name)
def test_models_without_cross_attention_to_the_prompt(tiny):
    pipe = tiny.build()
    scheduler = pipe.scheduler
    with pytest.raises(dx.UnsupportedError, match="astar acts in cross-attention on the words"):
        dx.apply(pipe, dx.AStar())
    assert pipe.scheduler is scheduler


def test_a_gradient_that_is_not_finite_moves_nothing():
    """The first of two pictures is spoiled in its gradient only; the other moves."""
    tiny = host("sd")
    pipe, prompts = tiny.build(), [PROMPT] * 2
    with dx.apply(pipe, dx.AStar(TWO, **IN_ALL_STEPS)):
        wanted = run(tiny, pipe, prompt=prompts)

        def spoil(module, args, out):
            if out.requires_grad:
                out.register_hook(lambda g: g * torch.tensor([torch.inf, 1.0])[:, None, None, None])

        pipe.unet.conv_in.register_forward_hook(spoil)
        with pytest.warns(UserWarning, match="astar left 1 of 2 pictures as they are in step 0"):
            ours = run(tiny, pipe, prompt=prompts)
    plain = run(tiny, pipe, prompt=prompts)
    close(ours[:1], plain[:1], 1 << 12)
    close(ours[1:], wanted[1:], 1 << 12)
    assert not torch.allclose(plain, wanted, atol=1e-3)
