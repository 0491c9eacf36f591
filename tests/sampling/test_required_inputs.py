"""Test pipelines that need more than a prompt: all of diffusers by signature, tiny ones by commands."""

import inspect
import re

import diffusers
import pytest
from diffusers import (
    FluxFillPipeline,
    FluxImg2ImgPipeline,
    FluxKontextPipeline,
    StableDiffusion3Img2ImgPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionXLImg2ImgPipeline,
    WanVideoToVideoPipeline,
)
from diffusers.pipelines import auto_pipeline

from diffusers_ext.sampling.call import arguments, run
from diffusers_ext.sampling.required_inputs import MEDIA, missing
from tests.hosts import host
from tests.tiny_models import flux, sd3, unet, wan


def table(pattern):
    """Return the pipelines in the tables from which diffusers itself chooses one for a task."""
    tables = [getattr(auto_pipeline, name) for name in dir(auto_pipeline) if re.fullmatch(pattern, name)]
    return sorted({cls.__name__ for table in tables for cls in table.values()})


def cls(name):
    return getattr(diffusers, name)


PROMPT_ALONE = [
    n for n in table(r"AUTO_TEXT2\w+_PIPELINES_MAPPING") if "Control" not in n and n != "FluxPipeline"
]
# The prior of these pipelines is run before, by hand; or a prompt edits a picture only if there is one.
BY_HAND = (
    "KandinskyPipeline",
    "KandinskyV22Pipeline",
    "StableCascadeDecoderPipeline",
    "WuerstchenDecoderPipeline",
)


@pytest.mark.parametrize("name", [n for n in PROMPT_ALONE if n not in BY_HAND])
def test_what_the_host_calls_text_to_something_needs_a_prompt_alone(name):
    assert missing(cls(name)) == ()


@pytest.mark.parametrize(
    "name", table(r"AUTO_(IMAGE2IMAGE|INPAINT|IMAGE2VIDEO|VIDEO2VIDEO)_PIPELINES_MAPPING")
)
def test_what_the_host_calls_something_else_needs_media(name):
    """Or it can do without, by its own annotation; then only a failure without it shows the need."""
    pipeline = cls(name)
    parameters = inspect.signature(pipeline.__call__).parameters
    needs = missing(pipeline)
    optional = [n for n in MEDIA if n in parameters and "None" in str(parameters[n].annotation)]
    assert needs or optional or name == "AnyFlowFARPipeline", "which makes videos of a prompt as well"
    assert set(needs) <= parameters.keys()


def every_pipeline():
    for name in sorted(dir(diffusers)):
        if name.endswith("Pipeline") and not name.startswith("Modular"):
            found = getattr(diffusers, name)
            if "__call__" in dir(found) and "prompt" in inspect.signature(found.__call__).parameters:
                yield found


def test_names_of_all_pipelines_of_the_host_agree():
    """A pipeline with the word in its name needs the picture; the exceptions say so in their annotations."""
    words = {"Img2Img": "image", "Inpaint": "mask_image", "ImageToVideo": "image", "VideoToVideo": "video"}
    found = 0
    for pipeline in every_pipeline():
        parameters = inspect.signature(pipeline.__call__).parameters
        for word, name in words.items():
            if word in pipeline.__name__ and name in parameters:
                optional = "None" in str(parameters[name].annotation)
                assert (name in missing(pipeline)) != optional, pipeline.__name__
                found += 1
    assert found > 40


def sd(kind, **more):
    return kind(**unet.pipeline().components, requires_safety_checker=False, **more)


NEEDY = {
    StableDiffusionImg2ImgPipeline: (lambda: sd(StableDiffusionImg2ImgPipeline), "image"),
    StableDiffusionInpaintPipeline: (lambda: sd(StableDiffusionInpaintPipeline), "image and mask_image"),
    StableDiffusionXLImg2ImgPipeline: (
        lambda: StableDiffusionXLImg2ImgPipeline(
            **unet.pipeline(sdxl=True).components, add_watermarker=False
        ),
        "image",
    ),
    StableDiffusion3Img2ImgPipeline: (
        lambda: StableDiffusion3Img2ImgPipeline(**sd3.pipeline().components),
        "image",
    ),
    FluxImg2ImgPipeline: (lambda: FluxImg2ImgPipeline(**flux.pipeline().components), "image"),
    WanVideoToVideoPipeline: (
        lambda: WanVideoToVideoPipeline(
            **{k: v for k, v in wan.pipeline().components.items() if k != "transformer_2"}
        ),
        "video",
    ),
    type(host("skyreels").build()): (host("skyreels").build, "image"),
}


@pytest.mark.parametrize("kind", NEEDY, ids=lambda kind: kind.__name__)
def test_a_saved_one_is_refused_in_a_sentence(refused, tmp_path, capsys, kind):
    build, names = NEEDY[kind]
    build().save_pretrained(tmp_path / "model")
    capsys.readouterr()
    for command in (["generate", "a"], ["compare", "a"]):
        line = refused(*command, "-m", tmp_path / "model", "--steps", 1, "--out", tmp_path / "out")
        assert line == (
            f"error: {kind.__name__} needs {names}, which cannot be given here; use it from Python, or take "
            "a pipeline that a prompt alone runs\n"
        )


def test_a_failure_for_want_of_a_picture_says_so():
    """FLUX.1-Fill may do without an image by its annotations, and does not."""
    parts = flux.pipeline(in_channels=16).components
    del parts["image_encoder"], parts["feature_extractor"]
    pipe = FluxFillPipeline(**parts)
    call = arguments(pipe, {}, height=32, width=32, num_inference_steps=1)
    with pytest.raises(
        ValueError, match="FluxFillPipeline needs image and mask_image, which cannot be given"
    ):
        run(pipe, ["a"], call)


def test_other_failures_stay_what_they_are():
    pipe = FluxKontextPipeline(**flux.pipeline().components)
    with pytest.raises(ValueError, match="max_sequence_length"):
        run(pipe, ["a"], {"height": 32, "width": 32, "max_area": 1024, "max_sequence_length": 1000})


def test_a_pipeline_without_a_prompt():
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    parts = dict(block_out_channels=(8, 8), norm_num_groups=4, layers_per_block=1)
    model = UNet2DModel(**parts, down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2)
    with pytest.raises(ValueError, match="DDPMPipeline takes no prompt"):
        arguments(DDPMPipeline(model, DDPMScheduler()), {})
