"""Use an NPNet: as a sampler of its own, or as the start of any other sampler."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ...errors import MethodError
from ...rewards.base import CallableReward, ensemble
from ...settings.fields import setting
from ...zoo import catalogue
from ...zoo.cards import verify_weights
from ..budget import Budget
from ..host_call import HostCall, Starts
from ..sampler import Sampler
from ..search import Search
from .keys import PICKLES, read_official
from .network import NPNetModel

FILES = (".safetensors", *PICKLES)


@dataclass(frozen=True, kw_only=True)
class NPNet(Sampler):
    """Replaces the noise of a call by what a trained network makes of it and of the prompt.

    `npnet.sample(pipe, prompt)` makes one picture for each prompt, and `noise=npnet` starts another sampler
    from such noise. The text is what the pipeline itself encodes, without the negative prompt. Rewards are
    optional here; they score what is made. `model` is an `NPNetModel`, or what `from_pretrained` takes.

    Where latents have another size than the network, `on_size_mismatch` raises ("error"), leaves the noise as
    it is with a warning ("skip"), or treats tiles one by one where the size is a multiple ("tile").
    `renorm="std"` gives the noise of each picture a standard deviation of 1.

    Raises `ValueError` for text or noise of other sizes than those of the network.
    """

    name: ClassVar[str] = "npnet"
    needs_rewards: ClassVar[bool] = False
    model: Any = setting(None, "", "a network: a name of the zoo, a folder, a file or a Hub id", file=True)
    on_size_mismatch: Literal["error", "skip", "tile"] = setting("error", "", "at another size of latents")
    renorm: Literal["none", "std"] = setting("none", "", "how the variance of the noise is brought to 1")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model is None:
            raise MethodError("An NPNet needs its weights, got none; NPNet.from_pretrained(...) loads some.")
        if not isinstance(self.model, NPNetModel):
            object.__setattr__(self, "model", load(self.model))

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str],
        *,
        weight_name: str | None = None,
        config: dict[str, Any] | None = None,
        **settings: Any,
    ) -> NPNet:
        """Load weights: a name of the zoo, a folder of `save_pretrained`, a published file, or a Hub id.

        `weight_name` is the published file of a Hub repository that has no configuration, such as
        "sdxl.safetensors". `config` overrides what was read from a published file, such as
        `{"svd_attention": False}`. `settings` are those of `NPNet`. Raises `ValueError` for files that are no
        NPNet, and `OSError` for those that cannot be read.
        """
        return cls(model=load(name_or_path, weight_name, config), **settings)

    def search(self, search: Search) -> None:
        """Make one picture for each prompt."""
        search.play(self.starts(search, 1))

    def starts(self, search: Search, n: int, first: int = 0) -> Starts:
        """Draw candidates, with another transform applied before this one if there is one."""
        starts = super().starts(search, n, first)
        return starts.with_noise(self(search.host, starts.noise))

    @torch.no_grad()
    def __call__(self, host: HostCall, noise: Tensor) -> Tensor:
        """Return the noise `[R, ...]` that a call starts from instead of `noise`, prompt by prompt."""
        text = prompt_embeds(host)
        text = text.repeat_interleave(len(noise) // len(text), 0)
        model = self.model.to(noise.device)
        tiles = noise if self.on_size_mismatch == "error" else self._tiles(noise)
        if tiles is None:
            return noise
        text = text.to(noise.device).repeat_interleave(len(tiles) // len(noise), 0)
        made = model(tiles, text).to(noise.dtype)
        made = made if tiles is noise else self._joined(made, noise)
        if self.renorm == "std":
            made = made / made.flatten(1).std(1).view(-1, *(1,) * (made.ndim - 1))
        return made

    def _tiles(self, noise: Tensor) -> Tensor | None:
        """Cut noise `[R, C, h, w]` to tiles of the network's size, row by row; `None` leaves it as it is."""
        size, came = self.model.shape, tuple(noise.shape[1:])
        if came == size:
            return noise
        if self.on_size_mismatch == "skip":
            warnings.warn(
                f"diffusers_ext: the NPNet is for noise {_words(size)} and leaves that of {_words(came)} as "
                "it is",
                stacklevel=2,
            )
            return None
        h, w = size[1:]
        if len(came) != 3 or came[0] != size[0] or came[1] % h or came[2] % w:
            return noise  # which the network refuses
        rows = noise.unflatten(2, (-1, h)).unflatten(4, (-1, w)).permute(0, 2, 4, 1, 3, 5)
        return rows.flatten(0, 2)

    def _joined(self, tiles: Tensor, noise: Tensor) -> Tensor:
        """Put tiles together to the shape of `noise`."""
        _, _, height, width = noise.shape
        c, h, w = self.model.shape
        rows = tiles.view(-1, height // h, width // w, c, h, w).permute(0, 3, 1, 4, 2, 5)
        return rows.reshape(noise.shape)

    def _begin(self, host: HostCall, budget: Budget) -> Search:
        if self.rewards is not None:
            return super()._begin(host, budget)
        unscored = CallableReward(lambda images, prompts: images.new_zeros(len(prompts)), name="none")
        return Search(host, ensemble(unscored), budget, self.micro_batch, self.keep_pictures)


def prompt_embeds(host: HostCall) -> Tensor:
    """Return the embeddings `[P, tokens, width]` of the prompts of a call, as its pipeline encodes them.

    The pipeline's own call encodes them with its own arguments, and is stopped before the denoiser runs.
    """
    found: list[Tensor] = []
    encode = host.pipe.encode_prompt

    def watch(*args: Any, **kwargs: Any) -> Any:
        made = encode(*args, **kwargs)
        found.append(made[0] if isinstance(made, tuple) else made)
        return made

    host.pipe.encode_prompt = watch
    try:
        host.schedule()
    finally:
        host.pipe.encode_prompt = encode
    return found[0]


def load(
    name_or_path: str | os.PathLike[str], weight_name: str | None = None, config: dict[str, Any] | None = None
) -> NPNetModel:
    """Load a network by a name of the zoo, from a folder, a published file, or the Hub."""
    name = os.fspath(name_or_path)
    shipped = name in catalogue.NOISES
    path = catalogue.path(name) if shipped else Path(name).expanduser()
    if shipped:
        verify_weights(path)
    if path.suffix in FILES and not path.is_dir():
        return _noted(read_official(path, **config or {}), path)
    if weight_name is not None:
        from huggingface_hub import hf_hub_download

        file = path / weight_name if path.is_dir() else hf_hub_download(name, weight_name)
        return _noted(read_official(file, **config or {}), file)
    return _noted(NPNetModel.from_pretrained(path if path.is_dir() else name), name)


def _noted(model: NPNetModel, place: str | os.PathLike[str]) -> NPNetModel:
    """Note in a network where it was read from, as diffusers does: records and recipes name it so."""
    model.register_to_config(_name_or_path=os.fspath(place))
    return model


def _words(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
