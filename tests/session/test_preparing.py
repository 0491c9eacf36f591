"""What methods that read the prompt see of a call, on pipelines with other inputs than text."""

import pytest
import torch
from diffusers import (
    ControlNetModel,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
)
from PIL import Image

import diffusers_ext as dx

from ..close import close
from ..hosts import host
from ..tiny_models import unet
from ..tiny_models.parts import seeded

PROMPT = "a red cat and a blue dog"
PICTURE = Image.new("RGB", (32, 32), "grey")
METHODS = [dx.AStar(["cat", "dog"]), dx.StructuredGuidance()]
CALL = dict(num_inference_steps=4, guidance_scale=4.0, output_type="latent", return_dict=False)


def parts(**config):
    pipe = host("sd").build()
    return pipe.components | {"unet": unet.unet(**config)}


def call(pipe, prompt=PROMPT, **more):
    return pipe(prompt, generator=torch.Generator().manual_seed(0), **CALL | more)[0]


def image_to_image():
    return StableDiffusionImg2ImgPipeline(**parts(), requires_safety_checker=False), dict(image=PICTURE)


def inpainting(channels):
    def build():
        pipe = StableDiffusionInpaintPipeline(**parts(in_channels=channels), requires_safety_checker=False)
        return pipe, dict(image=PICTURE, mask_image=Image.new("L", (32, 32), 255), height=32, width=32)

    return build


def controlled():
    components = parts()
    net = seeded(lambda: ControlNetModel.from_unet(components["unet"], conditioning_channels=3), 5)
    net.controlnet_cond_embedding = seeded(lambda: _Half(), 6)
    pipe = StableDiffusionControlNetPipeline(**components, controlnet=net, requires_safety_checker=False)
    return pipe, dict(image=PICTURE)


class _Half(torch.nn.Conv2d):
    """A condition at the size of latents, half that of the picture here."""

    def __init__(self):
        super().__init__(3, 16, 2, stride=2)


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
@pytest.mark.parametrize(
    "build", [image_to_image, inpainting(4), inpainting(9), controlled], ids=["img2img", "4", "9", "control"]
)
def test_pipelines_with_other_inputs(build, method):
    pipe, more = build()
    pipe.set_progress_bar_config(disable=True)
    plain, scheduler = call(pipe, **more), pipe.scheduler
    with dx.apply(pipe, method):
        ours = call(pipe, **more)
    assert (ours - plain).abs().max() > 1e-4 and ours.isfinite().all()
    assert torch.equal(call(pipe, **more), plain) and pipe.scheduler is scheduler


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_words_are_read_anew_in_every_run(method):
    pipe = host("sd").build()
    size = dict(height=32, width=32)
    with dx.apply(pipe, method):
        first = call(pipe, **size)
    with dx.apply(pipe, method):
        call(pipe, "the dog of two grey cat", **size)
        close(call(pipe, **size), first)


def test_a_copy_of_the_pipeline_runs_with_words_of_its_own():
    import copy

    pipe = host("sd").build()
    size = dict(height=32, width=32)
    with dx.apply(pipe, dx.AStar(["cat", "dog"])):
        wanted = call(pipe, **size)
        other = copy.copy(pipe)
        other.scheduler = copy.deepcopy(pipe.scheduler)
        assert torch.equal(call(other, **size), wanted)


def test_a_denoiser_that_is_called_without_its_pipeline():
    pipe = host("sd").build()
    with dx.apply(pipe, dx.StructuredGuidance()), pytest.raises(dx.UnsupportedError, match="without prompt="):
        pipe.unet(**unet.inputs())


def test_a_pipeline_without_a_tokenizer():
    pipe = host("sd").build()
    pipe.tokenizer = None
    with pytest.raises(dx.UnsupportedError, match="loaded without a tokenizer"):
        dx.apply(pipe, dx.StructuredGuidance())


def test_caches_keep_what_a_pass_for_gradients_would_spoil():
    """DeepCache replaces `forward` of a block; so does this."""
    pipe = host("sd").build()
    block = pipe.unet.mid_block
    block.forward = lambda *args, **kwargs: type(block).forward(block, *args, **kwargs)
    with pytest.raises(
        dx.ConflictError, match=r"astar runs the denoiser twice per step, but forward of .*mid_block"
    ):
        dx.apply(pipe, METHODS[0])
    del block.forward
    with dx.apply(pipe, METHODS[0]), pytest.raises(dx.ConflictError, match=r"forward of .*mid_block"):
        block.forward = lambda *args, **kwargs: type(block).forward(block, *args, **kwargs)
        call(pipe, height=32, width=32)
    with dx.apply(pipe, METHODS[1]):  # no further pass
        call(pipe, height=32, width=32)


def test_a_model_that_changes_the_prompt_on_its_way():
    pipe = host("sd").build()
    pipe.unet = unet.unet(encoder_hid_dim=32)
    with pytest.raises(dx.UnsupportedError, match="change the prompt between the text encoder"):
        dx.apply(pipe, dx.StructuredGuidance())


def compiled(*methods):
    """Graphs after runs at three sizes with compiled blocks, and the latents of the first."""
    pipe, first = host("sd").build(), None
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    pipe.unet.compile_repeated_blocks(fullgraph=True, backend="eager")
    with dx.apply(pipe, *methods):
        for side in (32, 48, 64):
            latents = call(pipe, height=side, width=side)
            first = latents if first is None else first
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    torch._dynamo.reset()
    return graphs, first


def test_compiled_blocks():
    """The pass for gradients has two graphs of its own, and a new size costs none."""
    pipe = host("sd").build()
    with dx.apply(pipe, *METHODS):
        wanted = call(pipe, height=32, width=32)
    plain, _ = compiled()
    graphs, ours = compiled(*METHODS)
    assert graphs <= plain + 2
    close(ours, wanted, 1 << 12)


@pytest.mark.slow  # the test above has these texts as well
def test_other_texts_cost_no_graph():
    assert compiled(METHODS[1])[0] == compiled()[0]
