"""Every tiny pipeline with the call that runs it; tests of sessions, hooks and methods walk through them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from tests.tiny_models import flux, hunyuan_video, mochi, sd3, unet, wan


@dataclass(frozen=True)
class Host:
    """A pipeline builder, the arguments of a three-step call, and those that turn classifier-free guidance
    on.
    """

    name: str
    build: Callable[[], Any]
    size: dict[str, int]
    guided: dict[str, Any]
    unguided: dict[str, Any]
    layer: str  # an attention module with four heads or more that SoftPAG can act on
    extra: dict[str, Any] = field(default_factory=dict)
    one_batch: bool = False  # how classifier-free guidance runs: in one batch or in two calls
    least_steps: int = 1

    @property
    def video(self) -> bool:
        return "num_frames" in self.size

    def run(self, pipe: Any, *, cfg: bool = False, prompts: int = 1, steps: int = 3, **call: Any) -> Tensor:
        """Latents of a run, the same for the same arguments; `prompt` may be given."""
        prompt = call.pop("prompt", ["a red circle", "a blue star"][:prompts])
        prompts = 1 if isinstance(prompt, str) else len(prompt)
        kind = self.extra | (self.guided if cfg else self.unguided)
        kind = {k: [v] * prompts if k in ("negative_prompt", "image") else v for k, v in kind.items()}
        generator = [torch.Generator().manual_seed(i) for i in range(prompts)]
        arguments = dict(
            num_inference_steps=steps, output_type="latent", generator=generator, return_dict=False
        )
        return pipe(prompt=prompt, **self.size | kind | arguments | call)[0]


SCALE = {"guided": {"guidance_scale": 4.0}, "unguided": {"guidance_scale": 1.0}}
SD_CFG = SCALE | {"one_batch": True}
HOSTS = [
    Host(
        "sd3",
        sd3.pipeline,
        dict(height=32, width=48),
        **SD_CFG,
        layer="transformer_blocks.1.attn",
        extra={"max_sequence_length": 16},
    ),
    Host(
        "sd3.5",
        lambda: sd3.pipeline(qk_norm="rms_norm", dual_attention_layers=(0,)),
        dict(height=32, width=48),
        **SD_CFG,
        layer="transformer_blocks.0.attn2",
        extra={"max_sequence_length": 16},
    ),
    Host(
        "sd",
        unet.pipeline,
        dict(height=32, width=32),
        **SD_CFG,
        layer="mid_block.attentions.0.transformer_blocks.0.attn1",
    ),
    Host(
        "sdxl",
        lambda: unet.pipeline(sdxl=True),
        dict(height=32, width=32),
        **SD_CFG,
        layer="mid_block.attentions.0.transformer_blocks.0.attn1",
    ),
    Host(
        "flux",
        flux.pipeline,
        dict(height=32, width=48),
        guided={"true_cfg_scale": 4.0, "negative_prompt": "green"},
        unguided={},
        layer="single_transformer_blocks.1.attn",
        extra={"max_sequence_length": 16},
    ),
    Host(
        "flux-dev",
        lambda: flux.pipeline(guidance_embeds=True),
        dict(height=32, width=48),
        guided={"true_cfg_scale": 4.0, "negative_prompt": "green", "guidance_scale": 3.5},
        unguided={"guidance_scale": 3.5},
        layer="transformer_blocks.1.attn",
        extra={"max_sequence_length": 16},
    ),
    Host(
        "wan",
        wan.pipeline,
        dict(height=32, width=32, num_frames=5),
        **SCALE,
        layer="blocks.1.attn1",
        extra={"max_sequence_length": 16},
    ),
    Host(
        "wan2.2",
        lambda: wan.pipeline(two_stage=True),
        dict(height=32, width=32, num_frames=5),
        **SCALE,
        layer="blocks.1.attn1",
        extra={"max_sequence_length": 16},
    ),
    Host(
        "hunyuan-video",
        hunyuan_video.pipeline,
        dict(height=32, width=32, num_frames=9),
        guided={"true_cfg_scale": 4.0, "negative_prompt": "green"},
        unguided={},
        layer="single_transformer_blocks.1.attn",
        extra={"max_sequence_length": 16, "prompt_template": hunyuan_video.TEMPLATE},
    ),
    Host(
        "skyreels",
        hunyuan_video.image_to_video,
        dict(height=32, width=32, num_frames=9),
        guided={"true_cfg_scale": 4.0, "negative_prompt": "green", "guidance_scale": 1.0},
        unguided={"guidance_scale": 1.0},
        layer="transformer_blocks.1.attn",
        extra={
            "max_sequence_length": 16,
            "prompt_template": hunyuan_video.TEMPLATE,
            "image": Image.new("RGB", (32, 32), "grey"),
        },
    ),
    Host(
        "mochi",
        mochi.pipeline,
        dict(height=64, width=96, num_frames=13),
        **SD_CFG,
        least_steps=2,  # the host's schedule divides by half of them
        layer="transformer_blocks.1.attn1",
        extra={"max_sequence_length": 16},
    ),
]
every_host = pytest.mark.parametrize("host", HOSTS, ids=lambda host: host.name)


def leaving(*names: str) -> Any:
    """Every host in turn; those named, which show nothing that others do not, in the slow tests only."""
    marks = {host.name: [pytest.mark.slow] * (host.name in names) for host in HOSTS}
    return pytest.mark.parametrize("host", [pytest.param(h, marks=marks[h.name], id=h.name) for h in HOSTS])


every_attention = leaving("flux-dev", "skyreels")  # attend as flux and hunyuan-video do
every_call = leaving("sd3.5", "flux-dev")  # are called as sd3 and flux are


def host(name: str) -> Host:
    return next(h for h in HOSTS if h.name == name)


def built(name: str) -> tuple[Host, Any]:
    """A host and a pipeline of its own."""
    found = host(name)
    return found, found.build()


def nothing_changed(why: str = "") -> Any:
    """Expects the warning of a run in which a method did nothing, for the reason that follows."""
    return pytest.warns(UserWarning, match=f"changed nothing in this run: {why}")


def processors(model: nn.Module) -> dict[str, Any]:
    """Module path -> processor object."""
    return {name: m.processor for name, m in model.named_modules() if hasattr(m, "processor")}
