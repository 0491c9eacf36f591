"""The steps of the noise: length, clipping, momentum by prompt, what is kept, and when it ends."""

import math
from itertools import pairwise

import pytest
import torch

import diffusers_ext as dx
from diffusers_ext.errors import MethodError
from diffusers_ext.sampling.reno_ascent import clipped, prior_gradient
from tests.close import MODEL, close
from tests.hosts import built
from tests.sampling.test_reno_view import even, red

PROMPTS = ["a red circle", "a blue star"]


def flat(images, prompts):
    """No picture is better than another, and the gradient is 0."""
    return 0 * images.mean((1, 2, 3))


def sample(pipe, host, rewards, prompts=1, first=0, **options):
    sampler = dx.ReNO(rewards=rewards, **dict(iterations=4) | options)
    generators = [torch.Generator().manual_seed(i) for i in range(first, first + prompts)]
    call = host.size | host.extra | host.unguided
    words = PROMPTS[first : first + prompts]
    return sampler.sample(pipe, words, generator=generators, num_inference_steps=1, output_type="pt", **call)


def scores(result, prompt=0):
    return [tried.score for tried in result.history if tried.prompt == prompt]


def test_the_prior_is_the_negative_log_density_of_the_length():
    noise = torch.randn(3, 4, 5, dtype=torch.float64, requires_grad=True)
    size = noise[0].numel()
    length = noise.flatten(1).norm(dim=1)
    prior = length.square() / 2 - (size - 1) * length.log()
    (wanted,) = torch.autograd.grad(prior.sum(), noise)
    torch.testing.assert_close(prior_gradient(noise.detach()), wanted, rtol=1e-5, atol=1e-6)
    chi = torch.distributions.Chi2(torch.tensor(float(size)))
    grid = torch.linspace(2.0, 8.0, 7)
    density = chi.log_prob(grid.square()) + (2 * grid).log()  # of the length, from that of its square
    inverse = grid.square() / 2 - (size - 1) * grid.log()
    torch.testing.assert_close(inverse - inverse[0], density[0] - density)


@pytest.mark.parametrize("scale", [0.5, 1.5])
def test_the_prior_alone_brings_noise_to_its_usual_length(scale):
    host, pipe = built("sd")
    start = scale * torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(5))
    found = dx.ReNO(rewards=flat, iterations=12, lr=5.0, norm_weight=0.05, clip=None, momentum=0.0).sample(
        pipe, PROMPTS[0], latents=start, num_inference_steps=1, guidance_scale=1.0, **host.size
    )
    away = [abs(tried.norm - math.sqrt(1023)) for tried in found.history]
    assert all(b < a for a, b in pairwise(away)) and away[-1] < 0.1 * away[0]
    assert torch.equal(found.noise, start), "nothing scored better than the first"


def test_the_prior_keeps_the_direction():
    noise = 1.7 * torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(5))
    moved = noise - 0.3 * prior_gradient(noise)
    assert torch.cosine_similarity(noise.flatten(), moved.flatten(), dim=0) == pytest.approx(1, abs=1e-6)


def test_gradients_are_clipped_by_prompt():
    gradient = torch.stack([torch.full((2, 2), 3.0), torch.full((2, 2), 0.01)])
    found = clipped(gradient, 0.1)
    assert found[0].norm() == pytest.approx(0.1, rel=1e-5) and torch.equal(found[1], gradient[1])
    assert torch.equal(clipped(gradient, None), gradient)


@pytest.mark.parametrize("options", [{}, {"optimizer": "adam", "lr": 0.05}], ids=["sgd", "adam"])
def test_the_reward_rises_and_the_best_is_kept(options):
    host, pipe = built("sd")
    found = sample(pipe, host, red, iterations=6, **options)
    way = scores(found)
    assert all(b > a for a, b in pairwise(way))
    assert float(found.scores[0]) == max(way) == way[-1]
    assert float(red(found.images, [])[0]) == pytest.approx(way[-1], abs=1e-7)
    assert found.seeds == (None,) and not torch.equal(
        found.noise, sample(pipe, host, red, iterations=1).noise
    )


def test_no_result_is_below_the_plain_picture():
    host, pipe = built("sd")
    first = sample(pipe, host, even, prompts=2, iterations=1)

    def same(images, prompts):
        return -(images - first.images).square().mean((1, 2, 3))

    found = sample(pipe, host, same, prompts=2, norm_weight=1.0, clip=None)
    for prompt in range(2):
        way = scores(found, prompt)
        assert way[0] == 0 and max(way[1:]) < 0, "the prior leads away from the first picture"
    assert torch.equal(found.images, first.images) and torch.equal(found.noise, first.noise)
    assert found.seeds == (0, 1) and found.scores.tolist() == [0, 0]


@pytest.mark.parametrize(
    "options", [{}, {"nesterov": False}, {"momentum": 0.0}, {"optimizer": "adam", "lr": 0.1}]
)
def test_two_prompts_are_two_runs(options):
    host, pipe = built("sd")
    both = sample(pipe, host, even, prompts=2, **options)
    for i in range(2):
        alone = sample(pipe, host, even, first=i, **options)
        close(both.noise[i], alone.noise[0], 8 * MODEL)
        for a, b in zip(scores(both, i), scores(alone), strict=True):
            assert a == pytest.approx(b, rel=1e-4)


def test_micro_batches_are_the_same_steps():
    host, pipe = built("sd")
    both, apart = (sample(pipe, host, even, prompts=2, micro_batch=size) for size in (None, 1))
    close(apart.noise, both.noise, 8 * MODEL)
    assert (apart.nfe, apart.gradients, apart.scored) == (both.nfe, both.gradients, both.scored) == (8, 6, 8)


def test_all_weights_times_a_number_are_the_same_steps():
    host, pipe = built("sd")
    options = dict(norm_weight=0.0, clip=1e-6, lr=1e5)  # shorter than any gradient here, so it is in force
    one, many = (sample(pipe, host, [(red, c), (even, 3 * c)], **options) for c in (1.0, 1000.0))
    close(many.noise, one.noise, 8 * MODEL)
    assert not torch.equal(one.noise, sample(pipe, host, red, iterations=1).noise)


def test_steps_are_those_of_torch():
    host, pipe = built("sd")
    found = sample(pipe, host, red, iterations=3, lr=500.0, clip=1e-4, norm_weight=0.0)
    first = sample(pipe, host, red, iterations=1).noise
    moved = (found.noise - first).norm()
    # the first step is lr * (1 + m) * clip long with Nesterov, the second lr * (1 + m + m^2) * clip
    assert moved == pytest.approx(500 * 1e-4 * (1.9 + 2.71), rel=0.02)


def test_a_prompt_without_finite_numbers_stays_at_its_best():
    host, pipe = built("sd")
    count = []

    def breaks(images, prompts):
        count.append(len(prompts))
        found = red(images, prompts)
        if len(count) == 3:
            found = found * torch.tensor([1.0, torch.nan])
        return found

    found = sample(pipe, host, breaks, prompts=2, iterations=5)
    usual = sample(pipe, host, red, prompts=2, iterations=5)
    assert count == [2, 2, 2, 1, 1]
    assert float(found.scores[0]) == pytest.approx(float(usual.scores[0]), rel=1e-4)
    assert float(found.scores[1]) == max(scores(usual, 1)[:2]) and found.stopped is None
    assert found.nfe == 8 and torch.isfinite(found.noise).all()


def test_a_gradient_that_is_not_finite_ends_a_prompt():
    host, pipe = built("sd")

    def steep(images, prompts):
        return images.mean((1, 2, 3)) + 0 * (images - images).sum((1, 2, 3)).sqrt()

    found = sample(pipe, host, steep)
    assert found.stopped == "a score or a gradient was not finite" and len(found.history) == 1


def test_a_first_score_that_is_no_number_is_one_sentence():
    host, pipe = built("sd")

    def bad(images, prompts):
        return images.mean((1, 2, 3)) * torch.nan

    with pytest.raises(MethodError, match="bad gave no finite score for the first picture of 'a red circle'"):
        sample(pipe, host, bad)


def test_patience_ends_a_prompt_by_itself():
    host, pipe = built("sd")
    found = sample(pipe, host, flat, iterations=9, patience=2)
    assert found.stopped == "2 iterations in a row found nothing better"
    assert len(found.history) == 3 and found.gradients == 2

    def mixed(images, prompts):
        return red(images, prompts) * torch.tensor([float("red" in p) for p in prompts])

    both = sample(pipe, host, mixed, prompts=2, iterations=5, patience=2)
    assert (len(scores(both, 0)), len(scores(both, 1)), both.stopped) == (5, 3, None)


def test_fresh_noise_is_best_of_n():
    host, pipe = built("sd")
    found = sample(pipe, host, even, prompts=2, iterations=5, fresh=True)
    generators = [torch.Generator().manual_seed(i) for i in range(2)]
    many = dx.BestOfN(rewards=even, n=5, micro_batch=1).sample(
        pipe,
        PROMPTS,
        generator=generators,
        num_inference_steps=1,
        output_type="pt",
        guidance_scale=1.0,
        **host.size,
    )
    assert found.seeds == many.seeds and found.gradients == 0 and found.nfe == 10
    torch.testing.assert_close(found.scores, many.scores, rtol=1e-4, atol=1e-7)
    assert torch.equal(found.noise, many.noise)


def test_pictures_are_kept_on_request():
    host, pipe = built("sd")
    found = sample(pipe, host, red, keep_pictures=True)
    assert [tried.picture.shape for tried in found.history] == [(32, 32, 3)] * 4
    assert sample(pipe, host, red).history[0].picture is None
