"""Resolve a model's name once, to its files, what it was trained for, and how it is loaded."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..zoo import cards, catalogue

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

    from .presets import Preset

DTYPES = ("float32", "bfloat16", "float16")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@dataclass(frozen=True)
class Checkpoint:
    """A model as the user named it, and the folder of its files; `None` stands for a Hub id.

    Everything else is read when it is first asked for. A command makes one and hands it on, so that no
    function looks the name up again.
    """

    name: str
    folder: Path | None = None

    @classmethod
    def resolve(cls, name: str | os.PathLike[str]) -> Checkpoint:
        """Find a model by a name of the zoo, the path of a folder, or a Hub id, in this order.

        Raises `ValueError` for an unknown name and `FileNotFoundError` for a folder that holds no model.
        """
        name = os.fspath(name)
        return cls(name, _locate(name))

    @classmethod
    def unchecked(cls, name: str) -> Checkpoint:
        """Take a name as it is. Plans do so: they need the settings of a model and none of its files."""
        return cls(name)

    def here(self) -> Checkpoint:
        """Return the model with the folder of its files on this disk; nothing is fetched.

        Raises `OSError` for a Hub model that is not in the cache.
        """
        from . import reading

        if self.folder is not None:
            return self
        return replace(self, folder=reading.download(self.name, local_files_only=True))

    @property
    def shipped(self) -> bool:
        """True if the model comes with the package."""
        return self.name in catalogue.MODELS

    @cached_property
    def card(self) -> Mapping[str, Any]:
        """The facts that training wrote about the model; empty for other models."""
        return {} if self.folder is None else cards.card(self.folder)

    @cached_property
    def call(self) -> Mapping[str, Any]:
        """The arguments that the model was trained for; empty for other models."""
        return dict(catalogue.MODELS[self.name].call if self.shipped else self.card.get("call", {}))

    @cached_property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that the model is tested on: those of its card, else all tasks of pictures."""
        from ..zoo.world.suites import IMAGE_TASKS

        own = catalogue.MODELS[self.name].tasks if self.shipped else self.card.get("tasks")
        return tuple(own or IMAGE_TASKS)

    @property
    def of_world(self) -> bool:
        """True if the model draws shapes world: it is shipped, or our training wrote its folder."""
        return self.shipped or {"call", "sha256"} <= self.card.keys()

    @property
    def reward(self) -> str | None:
        """The reward that searches choose by if none is named, or `None` if none is known for the model."""
        return catalogue.REWARDS[0] if self.of_world else None

    @cached_property
    def preset(self) -> Preset | None:
        """The settings of methods that are known for the model, or `None`."""
        from .presets import known

        return known(self.name, self.folder)

    def required_preset(self) -> Preset:
        """Return `preset`; raises `MethodError` naming the nearest one if there is none."""
        from .presets import of_model

        return of_model(self.name, self.folder)

    @cached_property
    def home(self) -> Path:
        """The folder of the files. Those of a Hub model are fetched first."""
        if self.folder is not None:
            return self.folder
        from .reading import download

        return download(self.name)

    @cached_property
    def marks(self) -> Mapping[str, str]:
        """The checksums of all weights and configs. Results carry them, to distinguish models."""
        from .fingerprint import marks

        return marks(self.home)

    @property
    def fingerprint(self) -> str:
        """The checksum of all weights."""
        return self.marks["weights"]

    @cached_property
    def quick_marks(self) -> Mapping[str, str]:
        """The checksums as in `marks`, but of samples of large weights. Pictures carry them."""
        from .fingerprint import configs, quick

        return {"weights": quick(self.home), "configs": configs(self.home)}

    def read(self, **kwargs: Any) -> DiffusionPipeline:
        """Read the stock pipeline, as `diffusers_ext.load` gives it; `kwargs` go to `from_pretrained`."""
        from ..zoo import calling
        from . import reading

        reading.check_arguments(kwargs)
        if self.folder is None:
            return reading.pipeline(self.name, reading.download(self.name, **kwargs), kwargs)
        # Folders without checksums, which may hold gigabytes, are not read twice.
        if self.shipped or "sha256" in self.card:
            cards.verify_weights(self.folder)
        if self.shipped and "torch_dtype" not in kwargs:
            import torch

            kwargs.setdefault("dtype", torch.float32)
        if homes := cards.borrowed(self.folder):
            kwargs = reading.lent(homes, kwargs) | kwargs
        pipe = reading.pipeline(str(self.folder), self.folder, kwargs)
        if self.call:
            calling.give(pipe, self.call)
        return pipe

    def load(
        self, device: str | None = None, dtype: str | None = None, threads: int | None = None
    ) -> DiffusionPipeline:
        """Read the pipeline and put it on its device, with the progress bars of other libraries off.

        `device`: CUDA if there is a GPU, else the CPU. `dtype`: one of `DTYPES`; `None` keeps that of the
        weights. `threads`: CPU threads of torch, kept until the command ends. `None` means torch's own
        number; for models of shapes world it means one, unless OMP_NUM_THREADS is set.
        """
        import torch

        from .logs import drop_truncation_lines, quiet_libraries
        from .threads import use_threads

        quiet_libraries()
        # Layers of shapes world are so small that a second thread costs more than it brings.
        alone = threads is None and self.of_world and "OMP_NUM_THREADS" not in os.environ
        use_threads(1 if alone else threads)
        if dtype is not None and dtype not in DTYPES:
            raise ValueError(f"--dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
        if device is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        pipe = self.read(**({"dtype": getattr(torch, dtype)} if dtype else {}))
        try:
            pipe = pipe.to(device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"the device {device!r} cannot be used ({reason}); try --device cpu") from error
        pipe.set_progress_bar_config(disable=True)
        drop_truncation_lines()
        return pipe


def _locate(name: str) -> Path | None:
    """Return the folder of a zoo name or of a local model; `None` for what can only be a Hub id."""
    if name in catalogue.REWARDS:
        raise ValueError(
            f"load() gives pipelines and {name!r} is a reward, which scores pictures; "
            f"get it with diffusers_ext.rewards.ShapesCLIP()"
        )
    if name in catalogue.NOISES:
        raise ValueError(
            f"load() gives pipelines and {name!r} changes the noise of one; get it with "
            f"diffusers_ext.NPNet.from_pretrained({name!r})"
        )
    if name in catalogue.MODELS:
        folder = Path(catalogue.path(name))
        if not (folder / cards.INDEX).is_file():
            raise FileNotFoundError(
                f"the weights of {name!r} are not installed ({folder} has no {cards.INDEX}); "
                f"run 'diffusers-ext train {name}' and pass the folder it writes"
            )
        return folder
    folder = Path(name).expanduser()
    if name and folder.is_dir():
        if not (folder / cards.INDEX).is_file():
            raise FileNotFoundError(
                f"a model folder needs a {cards.INDEX}, {name!r} has none; pass what save_pretrained() wrote"
            )
        return folder
    if folder.is_file():
        raise ValueError(
            f"load() takes a zoo name, a folder or a Hub id, got the file {name!r}; "
            "open a single checkpoint file with from_single_file() of its diffusers pipeline"
        )
    if _HUB_ID.fullmatch(name):
        return None
    if name.startswith((".", "~", os.sep)) or "/" in name or os.sep in name:
        raise FileNotFoundError(
            f"there is no model folder {name!r}; check the path or pass a zoo name or a Hub id"
        )
    raise ValueError(
        f"unknown model {name!r}: the zoo has {', '.join(catalogue.MODELS)}; "
        "pass one of these, a folder, or a Hub id such as 'black-forest-labs/FLUX.1-dev'"
    )
