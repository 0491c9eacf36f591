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
CARD, INDEX = "card.json", "model_index.json"
_ENTRIES = MappingProxyType({"call": dict, "tasks": list, "sha256": dict})  # of a card that are read again


@dataclass(frozen=True, slots=True)
class Model:
    """Facts about a shipped pipeline; `call` holds the arguments it was trained for."""

    pipeline: str
    call: Mapping[str, Any]
    tasks: tuple[str, ...] = ()  # task classes it is judged on; () means those of images


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
        "shapes-sd3": Model(
            pipeline="StableDiffusion3Pipeline",
            call=_SD3_CALL,
        ),
        "shapes-sd3-256": Model(
            pipeline="StableDiffusion3Pipeline",
            call=_SD3_CALL,
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


def own_call(name: str) -> dict[str, Any]:
    """Call arguments that a model, of the zoo or in a folder of training, was made for; `{}` for others."""
    if name in MODELS:
        return dict(MODELS[name].call)
    return dict(card(Path(name).expanduser()).get("call", {}))


def of_world(name: str) -> bool:
    """Whether a model draws shapes world: it is shipped, or its folder was written by our training."""
    return name in MODELS or {"call", "sha256"} <= card(Path(name).expanduser()).keys()


def load_reward(name: str, **kwargs: Any) -> ShapesCLIP:
    """A reward of the zoo by its name, ready to `score(images, prompts)`; `kwargs` go to `ShapesCLIP`."""
    if name not in REWARDS:
        raise ValueError(f"unknown reward {name!r}; the zoo has {', '.join(REWARDS)}")
    from .reward import ShapesCLIP

    return ShapesCLIP(**kwargs)


def weight_files(folder: Path) -> list[Path]:
    """Files of a model folder, or of the parts of a pipeline, that hold trained numbers, in a fixed order."""
    return sorted([*folder.glob("*.safetensors"), *folder.glob("*/*.safetensors")])


def borrowed(folder: Path) -> dict[str, Path]:
    """Folders of the components that a pipeline in `folder` has from another model of the zoo, by name.

    What two models have in common is kept once: the card names under `shares` whose the other components are.
    """
    lender = MODELS.get(str(card(folder).get("shares")))
    if lender is None:
        return {}
    home = path(card(folder)["shares"])
    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    parts = [name for name in index if (home / name).is_dir() and not (folder / name).is_dir()]
    return {name: home / name for name in parts}


def all_weights(folder: Path) -> dict[str, Path]:
    """Weight files of a pipeline by their path inside its folder, those of borrowed components included."""
    files = {f.relative_to(folder).as_posix(): f for f in weight_files(folder)}
    for name, home in borrowed(folder).items():
        files |= {f"{name}/{f.name}": f for f in sorted(home.glob("*.safetensors"))}
    return files


def checksums(files: Iterable[Path], folder: Path) -> dict[str, str]:
    """Sha256 of each file by its path inside `folder`."""
    return {f.relative_to(folder).as_posix(): sha256(f) for f in files}


def sha256(file: Path) -> str:
    """Of one file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


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
    found = {name: sha256(file) for name, file in all_weights(folder).items()}
    for name in sorted(asked):  # others, such as a LoRA beside them, are not what was trained
        if asked[name] != found.get(name):
            rule = f"{str(asked[name])[:12]}..."
            came = f"{found[name][:12]}..." if name in found else "nothing"
            raise ValueError(
                f"the sha256 of {folder / name} must match {CARD}: asked {rule}, found {came}; "
                "restore the file, or save changed weights to another folder"
            )
