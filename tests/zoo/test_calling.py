"""Test models of the zoo with their own defaults, and everything else that a stock pipeline can do."""

import copy
import inspect
import pickle

import diffusers
import numpy as np
import pytest
import torch
from diffusers import (
    AutoPipelineForImage2Image,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    WanPipeline,
)

import diffusers_ext as dx
from diffusers_ext.zoo import calling, catalogue


def draw(pipe, prompt="a red circle", **call):
    pipe.set_progress_bar_config(disable=True)
    made = pipe(prompt, generator=torch.Generator().manual_seed(0), output_type="np", **call)
    return made.frames[0] if hasattr(made, "frames") else made.images[0]


@pytest.mark.parametrize("name", catalogue.MODELS)
def test_a_call_without_arguments_is_the_usual_one(name):
    model = catalogue.MODELS[name]
    pipe = dx.load(name)
    stock = getattr(diffusers, model.pipeline)
    assert isinstance(pipe, stock) and type(pipe).__name__ == model.pipeline
    made = draw(pipe)
    assert made.shape[-3:-1] == (model.call["height"], model.call["width"])
    plain = stock(
        **pipe.components,
        **({} if stock is not StableDiffusionPipeline else {"requires_safety_checker": False}),
    )
    assert type(plain) is stock and np.array_equal(made, draw(plain, **model.call)), (
        "only the defaults differ"
    )


def test_what_the_caller_passes_wins():
    pipe = dx.load("shapes-wan")
    steps = []
    made = draw(
        pipe,
        num_frames=5,
        num_inference_steps=2,
        callback_on_step_end=lambda p, i, t, k: steps.append(i) or k,
    )
    assert made.shape == (5, 32, 32, 3) and steps == [0, 1]
    assert not np.array_equal(made, draw(pipe, num_frames=5, num_inference_steps=2, guidance_scale=5.0))


def test_other_pipelines_of_the_class_keep_their_defaults():
    dx.load("shapes-wan")
    assert inspect.signature(WanPipeline.__call__).parameters["num_frames"].default == 81
    found = inspect.signature(type(dx.load("shapes-wan")).__call__).parameters
    assert (found["num_frames"].default, found["height"].default, found["prompt"].default) == (9, 32, None)
    assert list(found) == list(inspect.signature(WanPipeline.__call__).parameters)


def test_it_saves_as_the_stock_class(tmp_path):
    pipe = dx.load("shapes-sd3")
    pipe.save_pretrained(tmp_path / "copy")
    stock = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "copy")
    assert type(stock) is StableDiffusion3Pipeline
    made = draw(stock, **catalogue.MODELS["shapes-sd3"].call)
    assert np.allclose(draw(pipe), made, atol=1e-4), "weights elsewhere in memory may round otherwise"


def test_other_pipelines_can_be_made_of_it():
    pipe = dx.load("shapes-sd3")
    assert type(StableDiffusion3Pipeline.from_pipe(pipe)) is StableDiffusion3Pipeline
    assert "Img2Img" in type(AutoPipelineForImage2Image.from_pipe(pipe)).__name__
    assert type(pipe).from_pipe(pipe).transformer is pipe.transformer


@pytest.mark.parametrize(
    "again", [copy.copy, lambda pipe: pickle.loads(pickle.dumps(pipe))], ids=["copy", "pickle"]
)
def test_copies_are_called_alike(again):
    pipe = dx.load("shapes-sd")
    other = again(pipe)
    assert calling.of(other) == calling.of(pipe) and other is not pipe
    assert np.array_equal(draw(pipe), draw(other))


def test_a_session_passes_a_copy_of_its_pipeline():
    pipe = dx.load("shapes-sd-turbo")
    other = copy.copy(pipe)
    assert type(other) is type(pipe) and other.unet is pipe.unet
    with dx.apply(pipe, dx.SoftPAG(scale=2.0)):
        assert np.array_equal(draw(pipe), draw(other))


def test_sessions_plans_and_gradients_see_the_same_pipeline():
    pipe = dx.load("shapes-sd3")
    before = draw(pipe)
    with dx.apply(pipe, dx.SoftPAG(scale=2.0)) as session:
        assert not np.array_equal(draw(pipe), before)
        assert session.report().extra_passes == catalogue.MODELS["shapes-sd3"].call["num_inference_steps"]
    assert np.array_equal(draw(pipe), before)
    wan = dx.load("shapes-wan")
    assert dx.plan(wan, dx.Radial()).grid == dx.plan("shapes-wan", dx.Radial()).grid == (5, 4, 4)
    latents = torch.zeros(1, 4, 16, 16, requires_grad=True)
    call = dict(num_inference_steps=1, output_type="latent", guidance_scale=1.0)
    assert not pipe("a red circle", latents=latents, **call).images.requires_grad
    inner = type(pipe).__call__.__wrapped__
    assert inner(pipe, "a red circle", latents=latents, **call).images.requires_grad


def test_folders_of_training_are_called_as_they_were_trained(saved_clip_model, saved_model):
    assert draw(dx.load(saved_clip_model)).shape == (9, 32, 32, 3)
    assert type(dx.load(saved_model)) is StableDiffusion3Pipeline
