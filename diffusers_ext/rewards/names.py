"""Name rewards in text, as the command line does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .aesthetic import Aesthetic
from .base import Reward
from .clip import CLIPScore, PickScore
from .hps import HPSv2
from .image_reward import ImageReward
from .noise_aware import FILE, NoiseAware
from .shapes import ShapesCLIP
from .vqa import VQAScore

REWARDS: dict[str, type[Reward]] = {
    kind.name: kind for kind in (ShapesCLIP, CLIPScore, PickScore, HPSv2, ImageReward, Aesthetic, VQAScore)
}


def named(name: str, device: Any = None) -> Reward:
    """Return the reward that `name` stands for: one of `REWARDS`, or a folder with weights.

    A folder holds a noise-aware reward, or a CLIPModel whose cosine is the score. Raises `ValueError` for
    anything else.
    """
    if name in REWARDS:
        return REWARDS[name](device=device)
    folder = Path(name).expanduser()
    if (folder / FILE).is_file():
        return NoiseAware.from_pretrained(folder, device=device)
    if folder.is_dir():
        return ShapesCLIP(folder, device)
    raise ValueError(f"unknown reward {name!r}; it is a folder, or one of {', '.join(REWARDS)}")


def load(reward: Reward, name: str) -> None:
    """Load the weights of a reward now, so that what is missing is missed before the first picture.

    Raises `OSError`, naming the reward, for weights that cannot be read or fetched.
    """
    try:
        getattr(reward, "model", None)
    except OSError as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise OSError(
            f"the weights of the reward {name} cannot be loaded ({reason}); fetch them on a machine with "
            "access to the Hub, or choose another reward"
        ) from error


def name_of(reward: Reward) -> str | None:
    """Return the name from which `named` makes a reward with the same weights; `None` if there is none."""
    kind = REWARDS.get(reward.name)
    if isinstance(reward, NoiseAware):
        return reward.place
    if kind is None or type(reward) is not kind:
        return None
    if isinstance(reward, ShapesCLIP):
        return reward.name if reward.shipped else str(Path(reward.place).resolve())
    return reward.name if reward.place == kind().place else None
