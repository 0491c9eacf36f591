"""Make the pictures that an exploration needs, and check its arguments before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..core import Method
from ..errors import MethodError
from ..sampling import call as sampling_call
from ..sampling.clip import Clip
from ..sampling.generate import applied, generate
from ..sampling.items import Item

if TYPE_CHECKING:
    from PIL.Image import Image

OWN = ("generator", "output_type", "return_dict", "latents", "num_images_per_prompt", "num_videos_per_prompt")


def arguments(pipe: Any, call: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `pipe(...)` with the defaults of its model.

    Raises `MethodError` for those that are set by an exploration itself, and `ValueError` for those that the
    pipeline does not take, for sizes it cannot make, and where it needs more than a prompt.
    """
    for name in OWN:
        if name in call:
            raise MethodError(
                f"an exploration makes one picture of a seed and sets {name} itself, got {name}=; leave it "
                "out."
            )
    return sampling_call.arguments(pipe, {}, given=tuple(call), **call)


def make(
    pipe: Any,
    prompts: Sequence[str],
    seeds: Sequence[int],
    call: Mapping[str, Any],
    methods: Sequence[Method],
) -> list[Image | Clip]:
    """Make pictures or clips in one batch under methods; each has the noise of its seed.

    Raises `MethodError` for a seed out of range, and `BrokenImageError` for NaN and all-black pictures.
    """
    items = [Item(p, sampling_call.seed_of(s)) for p, s in zip(prompts, seeds, strict=True)]
    with applied(pipe, methods):
        (made,) = generate(pipe, items, call, batch=len(items))
    return [picture.image for picture in made]
