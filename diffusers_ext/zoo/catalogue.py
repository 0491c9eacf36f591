"""List the shipped models, the arguments each was trained for, and the folders of their weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

WEIGHTS = Path(__file__).parent / "weights"


@dataclass(frozen=True, slots=True)
class Model:
    """Describe a shipped pipeline. `call` holds the arguments it was trained for."""

    pipeline: str
    call: Mapping[str, Any]
    tasks: tuple[str, ...] = ()  # tasks that it is tested on; () means the tasks for images


_SD3_CALL = MappingProxyType(
    {
        "height": 64,  # px
        "width": 64,
        "num_inference_steps": 15,
        "guidance_scale": 4.0,
        "max_sequence_length": 24,  # T5 tokens; the stock default of 256 works too and is slower
    }
)
MODELS: Mapping[str, Model] = MappingProxyType(
    {
        "shapes-sd3": Model(pipeline="StableDiffusion3Pipeline", call=_SD3_CALL),
        "shapes-sd3-256": Model(pipeline="StableDiffusion3Pipeline", call=_SD3_CALL),
        "shapes-sd": Model(
            pipeline="StableDiffusionPipeline",
            call=MappingProxyType(
                {"height": 64, "width": 64, "num_inference_steps": 15, "guidance_scale": 4.0}
            ),
        ),
        "shapes-sd-turbo": Model(
            pipeline="StableDiffusionPipeline",
            call=MappingProxyType(
                # One call per picture: the teacher's guidance went into the weights.
                {"height": 64, "width": 64, "num_inference_steps": 1, "guidance_scale": 0.0}
            ),
        ),
        "shapes-wan": Model(
            pipeline="WanPipeline",
            call=MappingProxyType(
                {
                    "height": 32,  # px
                    "width": 32,
                    "num_frames": 9,
                    "num_inference_steps": 15,
                    "guidance_scale": 2.0,  # the best of 1.5 to 5 on tuning prompts
                    "max_sequence_length": 24,  # tokens; the stock default of 512 works too and is slower
                }
            ),
            tasks=("single_object", "two_object", "motion", "two_motion"),
        ),
    }
)
REWARDS = ("shapes-clip",)  # they score pictures; no pipelines
NOISES = ("shapes-sd-npnet",)  # they change the noise of a pipeline


def path(name: str) -> Path:
    """Return the folder of a shipped model, whether or not its weights are installed."""
    if name not in (known := (*MODELS, *REWARDS, *NOISES)):
        raise ValueError(f"unknown zoo model {name!r}; the zoo has {', '.join(known)}")
    return WEIGHTS / name
