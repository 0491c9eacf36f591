import pytest
import torch

from diffusers_ext.training.objectives.flow import encode, lengthen
from diffusers_ext.zoo.models import CONTEXT_WIDTH, build_sd3, build_vae, normalise
from tests.close import alike


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(0)
    return build_vae().eval()


@pytest.fixture(scope="module")
def pipe(vae):
    return build_sd3(vae)


def test_normalised_latents_decode_to_the_same_picture():
    torch.manual_seed(0)
    vae, x = build_vae().eval(), torch.randn(4, 3, 64, 64)
    mean, std = torch.tensor([0.5, -1.0, 0.0, 2.0]), torch.tensor([0.5, 2.0, 1.0, 3.0])
    with torch.no_grad():
        before = vae.encode(x).latent_dist
        picture = vae.decode(before.mean).sample
        normalise(vae, mean, std)
        after = vae.encode(x).latent_dist
        alike(after.mean, (before.mean - mean[:, None, None]) / std[:, None, None])
        alike(after.std, before.std / std[:, None, None])
        alike(vae.decode(after.mean).sample, picture)


def test_an_untrained_transformer_is_silent(pipe):
    """With adaLN-Zero there is no velocity before the first step, whatever goes in."""
    context, pooled = torch.randn(2, 48, CONTEXT_WIDTH), torch.randn(2, CONTEXT_WIDTH)
    with torch.no_grad():
        out = pipe.transformer(torch.randn(2, 4, 16, 16), context, pooled, torch.tensor([10.0, 900.0])).sample
    assert out.shape == (2, 4, 16, 16) and not out.any()


@pytest.mark.parametrize("length", [24, 256])
def test_training_reads_text_exactly_as_the_stock_pipeline_does(pipe, length):
    prompts = ["a red circle", "a red circle, a blue square and a yellow star", ""]
    ids = torch.tensor(pipe.tokenizer(prompts, padding="max_length").input_ids)
    with torch.no_grad():
        context, pooled = encode(pipe, ids, lengthen(ids, length, pipe.tokenizer.pad_token_id))
        stock, _, stock_pooled, _ = pipe.encode_prompt(
            prompts, None, None, do_classifier_free_guidance=False, max_sequence_length=length
        )
    assert context.shape == (3, 24 + length, CONTEXT_WIDTH)
    alike(context, stock)
    alike(pooled, stock_pooled)
