"""Make the pictures that an exploration needs, and check its arguments before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from ..core import Method
from ..errors import MethodError, UnsupportedError
from ..sampling import call as sampling_call
from ..sampling.clip import Clip
from ..sampling.generate import applied, generate
from ..sampling.items import Item

if TYPE_CHECKING:
    from PIL.Image import Image

OWN = ("generator", "output_type", "return_dict", "latents", "num_images_per_prompt", "num_videos_per_prompt")


def arguments(pipe: Any, prompt: str, call: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `pipe(prompt, ...)` that a caller asked for, after they were checked.

    Raises `MethodError` for a bare denoiser, for several prompts, and for arguments that an exploration sets
    itself. Raises `ValueError` for those that the pipeline does not take, for sizes it cannot make, and where
    it needs more than a prompt.
    """
    if isinstance(pipe, nn.Module):
        raise UnsupportedError(
            f"an exploration makes pictures of a prompt, which a bare {type(pipe).__name__} cannot; pass the "
            "pipeline."
        )
    if not isinstance(prompt, str):
        raise MethodError(
            f"an exploration is of one prompt, got a {type(prompt).__name__}; pass one text, and call again "
            "for another."
        )
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
