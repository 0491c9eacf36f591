"""Models small enough to ship: a world of coloured shapes with ground truth, and pipelines trained on it.

Start with `captions` (what can be asked), `render` (pictures), `detect` (the judge) and `suites` (prompts).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .reward import ShapesCLIP

WEIGHTS = Path(__file__).parent / "weights"
CARD = "card.json"
_ENTRIES = MappingProxyType({"call": dict, "tasks": list, "sha256": dict})  # of a card that are read again


@dataclass(frozen=True, slots=True)
class Model:
    """Facts about a shipped pipeline; `call` holds the arguments it was trained for."""

    pipeline: str
    call: Mapping[str, Any]
    tasks: tuple[str, ...] = ()  # task classes it is judged on; () means those of images


MODELS: Mapping[str, Model] = MappingProxyType(
    {
        "shapes-sd3": Model(
            pipeline="StableDiffusion3Pipeline",
            call=MappingProxyType(
                {
                    "height": 64,  # px
                    "width": 64,
                    "num_inference_steps": 15,
                    "guidance_scale": 4.0,
                    "max_sequence_length": 24,  # T5 tokens; the stock default of 256 works too and is slower
                }
            ),
        ),
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


def path(name: str) -> Path:
    """Folder of a model of the zoo, whether or not its weights are installed."""
    if name not in MODELS and name not in REWARDS:
        raise ValueError(f"unknown zoo model {name!r}; the zoo has {', '.join([*MODELS, *REWARDS])}")
    return WEIGHTS / name


def load_reward(name: str, **kwargs: Any) -> ShapesCLIP:
    """A reward of the zoo by its name, ready to `score(images, prompts)`; `kwargs` go to `ShapesCLIP`."""
    if name not in REWARDS:
        raise ValueError(f"unknown reward {name!r}; the zoo has {', '.join(REWARDS)}")
    from .reward import ShapesCLIP

    return ShapesCLIP(**kwargs)


def weight_files(folder: Path) -> list[Path]:
    """Files of a model folder, or of the parts of a pipeline, that hold trained numbers, in a fixed order."""
    return sorted([*folder.glob("*.safetensors"), *folder.glob("*/*.safetensors")])


def checksums(files: Iterable[Path], folder: Path) -> dict[str, str]:
    """Sha256 of each file by its path inside `folder`."""
    return {f.relative_to(folder).as_posix(): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def card(folder: Path) -> dict[str, Any]:
    """What training wrote about a model, `{}` without a card; raises `ValueError` where it cannot be read.

    Other projects have files of this name: entries of another kind than ours are left out.
    """
    if not (folder / CARD).is_file():
        return {}
    try:
        found = json.loads((folder / CARD).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{folder / CARD} is no JSON in UTF-8 ({error}); restore or delete it") from error
    entries = found.items() if isinstance(found, dict) else ()
    return {key: value for key, value in entries if isinstance(value, _ENTRIES.get(key, object))}


def verify_weights(folder: str | Path) -> None:
    """Compare weight files with the sha256 in the card; raises `ValueError` naming the first bad file."""
    folder = Path(folder)
    if (asked := card(folder).get("sha256")) is None:
        raise FileNotFoundError(
            f"{folder} has no {CARD} with checksums; install the package again or train the model"
        )
    found = checksums(weight_files(folder), folder)
    for name in sorted(asked):  # others, such as a LoRA beside them, are not what was trained
        if asked[name] != found.get(name):
            rule = f"{str(asked[name])[:12]}..."
            came = f"{found[name][:12]}..." if name in found else "nothing"
            raise ValueError(
                f"the sha256 of {folder / name} must match {CARD}: asked {rule}, found {came}; "
                "restore the file, or save changed weights to another folder"
            )
