"""What a reward is given and answers, and several rewards together."""

import functools
import math
import re

import numpy as np
import pytest
import torch
from scipy.stats import rankdata

import diffusers_ext as dx
from diffusers_ext.rewards import CallableReward, Ensemble, Reward, ensemble

from ..close import close


class Red(Reward):
    name = "red"

    def _score(self, images, prompts):
        return images[:, 0].mean((1, 2))


class Plain:
    """Has `score`, and inherits nothing."""

    def score(self, images, prompts):
        return images[:, 1].mean((1, 2))


def length(images, prompts):
    return [len(p) for p in prompts]


@pytest.fixture
def images():
    return torch.rand(3, 3, 8, 10, generator=torch.Generator().manual_seed(0))


PROMPTS = ["a", "a long one", "two"]


def test_everything_that_scores_is_a_reward(images):
    plain, red = Plain(), Red()
    found = ensemble([red, (plain, 2), (length, 0.5), CallableReward(length), lambda i, p: i.mean((1, 2, 3))])
    assert found.names == ("red", "Plain", "length", "length-2", "reward")
    assert [weight for _, weight in found.parts] == [1, 2, 0.5, 1, 1]
    assert found.parts[0][0] is red and ensemble(found) is found
    each = found.each(images, PROMPTS)
    assert each.keys() == set(found.names)
    assert {(s.shape, s.dtype) for s in each.values()} == {(torch.Size([3]), torch.float32)}
    assert torch.equal(each["red"], images[:, 0].mean((1, 2)))
    assert each["length"].tolist() == [1, 10, 3]
    wanted = each["red"] + 2 * each["Plain"] + 0.5 * each["length"] + each["length-2"] + each["reward"]
    torch.testing.assert_close(found.total(each), wanted)


@pytest.mark.parametrize("one", [Red(), Plain(), length])
def test_one_reward_needs_no_list(one, images):
    assert len(ensemble(one).parts) == len(ensemble([one]).parts) == 1
    assert torch.equal(
        ensemble(one).total(ensemble(one).each(images, PROMPTS)),
        next(iter(ensemble(one).each(images, PROMPTS).values())),
    )


def test_an_ensemble_in_a_list_keeps_its_own_weights():
    inner = ensemble([(Red(), 2.0), (length, 3.0)])
    found = ensemble([(inner, 0.5), Red()])
    assert found.names == ("red", "length", "red-2") and [w for _, w in found.parts] == [1, 1.5, 1]


def test_order_of_pictures_is_kept(images):
    found, turned = ensemble([Red(), length]), [2, 0, 1]
    straight = found.each(images, PROMPTS)
    other = found.each(images[turned], [PROMPTS[i] for i in turned])
    for name in found.names:
        close(other[name], straight[name][turned])


def test_ranks_are_those_of_scipy():
    """Ties share their mean, and a score that is no number is with the worst."""
    scores = {
        "red": torch.tensor([0.3, 0.1, 0.3, 0.7]),
        "length": torch.tensor([5.0, math.nan, -math.inf, 9.0]),
    }
    found = ensemble([(Red(), 2.0), length]).ranks(scores)
    wanted = 2 * (rankdata(scores["red"]) - 1) + rankdata([5, -math.inf, -math.inf, 9]) - 1
    assert found.tolist() == wanted.tolist()


def test_ranks_do_not_change_under_a_monotone_map():
    scores = torch.randn(7, generator=torch.Generator().manual_seed(1))
    found = ensemble(Red())
    assert torch.equal(found.ranks({"red": scores}), found.ranks({"red": (3 * scores).exp() - 5}))
    assert torch.equal(found.ranks({"red": scores}), scores.argsort().argsort().float())


def test_scores_that_are_no_numbers_pass(images):
    each = ensemble(lambda i, p: [math.nan, math.inf, 1.0]).each(images, PROMPTS)
    assert each["reward"].isnan().tolist() == [True, False, False]


class TestClips:
    @pytest.mark.parametrize(("count", "chosen"), [(1, [0]), (5, [0, 1, 2, 3, 4]), (15, range(0, 15, 2))])
    def test_a_reward_of_pictures_scores_frames(self, count, chosen):
        clips = torch.rand(2, count, 3, 4, 4)
        seen = []

        def red(images, prompts):
            seen.append(prompts)
            return images[:, 0].mean((1, 2))

        (found,) = ensemble(red).each(clips, ["a", "b"]).values()
        torch.testing.assert_close(found, clips[:, list(chosen), 0].mean((1, 2, 3)))
        assert seen == [["a"] * len(chosen) + ["b"] * len(chosen)]

    def test_a_reward_of_clips_gets_all_frames(self):
        class Motion(Reward):
            name, space = "motion", "video"

            def _score(self, images, prompts):
                assert images.shape[1] == 20
                return images.diff(dim=1).abs().mean((1, 2, 3, 4))

        clips = torch.rand(2, 20, 3, 4, 4)
        found = ensemble([Motion(), Red()]).each(clips, ["a", "b"])
        torch.testing.assert_close(found["motion"], (clips[:, 1:] - clips[:, :-1]).abs().mean((1, 2, 3, 4)))
        with pytest.raises(
            ValueError, match=r"float images \[B, T, 3, H, W\] in 0..1, got .* \[2, 3, 4, 4\]"
        ):
            Motion().score(clips[:, 0], ["a", "b"])
        with pytest.raises(
            ValueError, match=r"float images \[B, 3, H, W\] in 0..1, got .* \[2, 20, 3, 4, 4\]"
        ):
            Red().score(clips, ["a", "b"])


class TestGradients:
    def test_they_reach_the_images(self, images):
        images.requires_grad_()
        found = ensemble([(Red(), 2.0), Plain()])
        found.total(found.each(images, PROMPTS)).sum().backward()
        assert found.differentiable
        wanted = torch.tensor([2.0, 1.0, 0.0])[None, :, None, None].expand_as(images) / 80
        torch.testing.assert_close(images.grad, wanted)

    def test_a_function_is_found_out(self, images):
        """What it says beforehand is a guess; the first scores of images with gradients decide."""
        numbers = CallableReward(length)
        assert numbers.differentiable
        numbers.score(images, PROMPTS)
        assert numbers.differentiable  # without gradients nothing is known
        ensemble(numbers).each(images.requires_grad_(), PROMPTS)
        assert not numbers.differentiable and not ensemble([Red(), numbers]).differentiable
        smooth = CallableReward(lambda i, p: i.mean((1, 2, 3)))
        assert smooth.score(images, PROMPTS).requires_grad and smooth.differentiable

    def test_what_has_none_sees_no_graph(self, images):
        def red(images, prompts):
            return images.numpy()[:, 0].mean((1, 2))  # raises for a tensor with gradients

        reward = CallableReward(red, differentiable=False)
        close(reward.score(images.requires_grad_(), PROMPTS), Red().score(images, PROMPTS).detach())

    @pytest.mark.parametrize("reward", [Plain, lambda: CallableReward(length, differentiable=True)])
    def test_a_false_claim_is_refused(self, reward, images, monkeypatch):
        monkeypatch.setattr(Plain, "score", lambda self, images, prompts: torch.zeros(3))
        with pytest.raises(ValueError, match=r"'\w+' says that it is differentiable.* = False"):
            ensemble(reward()).each(images.requires_grad_(), PROMPTS)


class TestPictures:
    def test_pil_rewards_get_pictures(self, images):
        def red(pictures, prompts):
            assert {p.size for p in pictures} == {(10, 8)} and prompts == PROMPTS
            return np.array([np.asarray(p)[..., 0].mean() / 255 for p in pictures])

        reward = CallableReward(red, pil=True, name="mine")
        assert not reward.differentiable and reward.name == "mine"
        found = reward.score(images.requires_grad_(), PROMPTS)
        torch.testing.assert_close(found, images[:, 0].mean((1, 2)).detach(), atol=0.5 / 255, rtol=0)

    def test_there_and_back(self):
        from PIL import Image

        arrays = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3), np.uint8)
        pictures = [Image.fromarray(a) for a in arrays]
        tensor = dx.rewards.to_tensor(pictures)
        assert tensor.shape == (2, 3, 5, 7) and tensor.dtype == torch.float32
        assert np.array_equal((tensor * 255).round().byte().permute(0, 2, 3, 1).numpy(), arrays)
        seen = []
        CallableReward(lambda p, _: seen.extend(p) or [0, 0], pil=True).score(tensor, ["a", "b"])
        assert all(np.array_equal(np.asarray(s), a) for s, a in zip(seen, arrays, strict=True))
        clips = dx.rewards.to_tensor([pictures, pictures])
        assert clips.shape == (2, 2, 3, 5, 7) and torch.equal(clips[1], tensor)
        assert dx.rewards.to_tensor([pictures[0].convert("L")]).shape == (1, 3, 5, 7)

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ([], "got an empty list"),
            ([np.zeros((4, 4, 3), np.uint8)], "got a NumPy array"),
            (torch.zeros(1, 3, 4, 4), r"got a Tensor; write \[picture\]"),
        ],
    )
    def test_other_things_are_refused(self, given, message):
        with pytest.raises(ValueError, match=message):
            dx.rewards.to_tensor(given)

    def test_sizes_are_equal(self):
        from PIL import Image

        with pytest.raises(ValueError, match=r"of one size.*got 4 x 5, 6 x 5 px; convert them one by one"):
            dx.rewards.to_tensor([Image.new("RGB", (4, 5)), Image.new("RGB", (6, 5))])


ZEROS = torch.zeros(3, 3, 4, 4)


@pytest.mark.parametrize(
    ("images", "prompts", "message"),
    [
        (ZEROS, "a", "got one string for 3 images"),
        (ZEROS, PROMPTS[:2], "got 2 prompts for 3 images; repeat a prompt"),
        (ZEROS, ["a", 1, "b"], "got a list with an int"),
        (ZEROS, None, "got a NoneType"),
        ([], [], r"got an empty list; convert pictures of PIL by dx.rewards.to_tensor\("),
        (np.zeros((3, 3, 4, 4)), PROMPTS, "got a NumPy array"),
        (ZEROS.byte(), PROMPTS, "got torch.uint8.*divide by 255"),
        (ZEROS + 200, PROMPTS, "got values up to 200; divide by 255"),
        (ZEROS + 1.2, PROMPTS, "got values up to 1.2; clamp them"),
        (ZEROS - 1, PROMPTS, r"got values down to -1; .* become \(images \+ 1\) / 2"),
        (ZEROS[0], PROMPTS, r"got torch.float32 \[3, 4, 4\]; one picture is images\[None\]"),
        (torch.zeros(3, 4, 4, 3), PROMPTS, r"\[3, 4, 4, 3\]"),
        (ZEROS[:0], [], "got none"),
    ],
)
@pytest.mark.parametrize(
    "call",
    [Red().score, ensemble(Red()).each, ensemble(Plain()).each],
    ids=["score", "each", "each of a plain one"],
)
def test_wrong_pictures_and_prompts_are_refused(call, images, prompts, message):
    with pytest.raises(ValueError, match=f"a reward takes .*{message}"):
        call(images, prompts)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (None, "returned None"),
        (torch.tensor(1.0), r"returned shape \[\]"),
        (torch.zeros(3, 3), r"returned shape \[3, 3\]"),
        (torch.zeros(3, 1), r"returned shape \[3, 1\]"),
        ([1, 2], r"returned shape \[2\]"),
        ("abc", "returned a str"),
        ({"score": 1}, "returned a dict"),
        (torch.zeros(3, dtype=torch.complex64), "returned torch.complex64"),
    ],
)
def test_wrong_answers_name_the_reward(answer, message):
    rule = r"reward 'odd{}' must return one score for each picture, \[3\], and {}"

    def odd(images, prompts):
        return answer

    with pytest.raises(ValueError, match=rule.format("", message)):
        CallableReward(odd).score(ZEROS, PROMPTS)
    second = CallableReward(lambda i, p: length(i, p), name="odd")
    with pytest.raises(ValueError, match=rule.format("", message)):
        ensemble([odd, second]).each(ZEROS, PROMPTS)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "at least one reward is needed"),
        ([(length, 0)], "finite number above 0, got 0 for 'length'; leave it out"),
        ([(length, -1)], "got -1 for 'length'; write the scores .* other sign"),
        ([(length, math.nan)], "got nan"),
        ([(length, math.inf)], "got inf"),
        ([(length, "2")], "got '2'"),
        ([Red(), (length, True)], "got True"),
        ("shapes-clip", r"got 'shapes-clip'; pass one, such as dx.rewards.ShapesCLIP\(\)"),
        (Red, re.escape("such as Red()")),
        ((length, 2.0), r"got 2.0; .*\[\(reward, 0.5\), \(other, 2.0\)\]"),
        (None, "got None"),
    ],
)
def test_what_is_no_reward_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        ensemble(given)


def test_functions_are_checked_when_given():
    with pytest.raises(ValueError, match="takes a function of images and prompts, got 3"):
        CallableReward(3)
    with pytest.raises(ValueError, match="leave out one of pil and differentiable"):
        CallableReward(length, pil=True, differentiable=True)


def test_a_level_reaches_rewards_that_have_several(images):
    class Levels:
        """Counts how often it is asked at a level of its own."""

        name = "levels"

        def __init__(self, level=0.0):
            self.level = level

        def score(self, images, prompts):
            return torch.full((len(images),), self.level)

        def at(self, level):
            return Levels(level)

    found = ensemble([Levels(), Red()])
    assert isinstance(found, Ensemble)
    assert found.each(images, PROMPTS, level=0.75)["levels"].tolist() == [0.75] * 3
    assert found.each(images, PROMPTS)["levels"].tolist() == [0.0] * 3
    assert torch.equal(found.each(images, PROMPTS, level=0.75)["red"], Red().score(images, PROMPTS))


@pytest.mark.parametrize("grad", [False, True])
def test_a_reward_that_writes_into_its_images_spoils_no_other(grad):
    def dims(images, prompts):
        return images.mul_(0.5).mean((1, 2, 3))

    def bright(images, prompts):
        return images.mean((1, 2, 3))

    images = torch.rand(2, 3, 4, 4, requires_grad=grad)
    before = images.detach().clone()
    each = ensemble([dims, bright, (dims, 2.0)]).each(images, ["a", "b"])
    assert torch.equal(images.detach(), before)
    assert torch.allclose(each["bright"], before.mean((1, 2, 3)))
    assert torch.equal(each["dims"], each["dims-2"])


def test_a_function_of_images_alone_is_refused_before_pictures_are_made():
    def bright(images):
        return images.mean((1, 2, 3))

    @functools.wraps(bright)
    def of_two(images, prompts):
        return bright(images)

    with pytest.raises(ValueError, match=r"takes images and prompts, got bright\(images\); write def reward"):
        ensemble(bright)
    assert ensemble(of_two).names == ("bright",)
    assert len(ensemble(lambda *given: [0.0]).parts) == len(ensemble(lambda i, p, scale=1: [0.0]).parts) == 1
