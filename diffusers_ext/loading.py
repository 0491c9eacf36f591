"""`load`: one name for a model of the zoo, a local folder or a Hub id."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def load(name_or_path: str | os.PathLike[str], **kwargs: Any) -> DiffusionPipeline:
    """A stock diffusers pipeline, ready to be called with a prompt.

    `name_or_path` is a name of the zoo ("shapes-sd3"), a folder written by `save_pretrained`, or a Hub id
    ("black-forest-labs/FLUX.1-dev"), tried in this order. `kwargs` go to `DiffusionPipeline.from_pretrained`.
    Models of the zoo, and folders with a card from training, are checked against their sha256. Those of the
    zoo come in float32 unless `dtype` says otherwise. Called without arguments, those and folders with a card
    use the size, steps and scales they were trained for (`zoo.calling`). Code inside a repository is never
    run unless you pass `trust_remote_code=True` yourself.

    Raises `ValueError` for an unknown name and for other weights than those of the card, `OSError` for a
    folder or Hub id that cannot be read, naming the file, and for weights that lack a part of the model.
    """
    from diffusers import DiffusionPipeline

    from .zoo import calling, cards, catalogue

    name = os.fspath(name_or_path)
    folder = locate(name)
    if folder is None:
        with hub_errors(name):
            folder = Path(DiffusionPipeline.download(name, **kwargs))
        return _read(name, folder, kwargs)
    # Training alone writes sums, of about 10 MB; other folders, which may hold gigabytes, are not read twice.
    if name in catalogue.MODELS or "sha256" in cards.card(folder):
        cards.verify_weights(folder)
    if name in catalogue.MODELS:
        import torch

        if "torch_dtype" not in kwargs:
            kwargs.setdefault("dtype", torch.float32)
    if homes := cards.borrowed(folder):
        kwargs = _lent(homes, kwargs) | kwargs
    pipe = _read(str(folder), folder, kwargs)
    if call := cards.own_call(name):
        calling.give(pipe, call)
    return pipe


def _read(name: str, folder: Path, kwargs: Mapping[str, Any]) -> DiffusionPipeline:
    """The pipeline in a folder, by the path or Hub id that it goes by."""
    from diffusers import DiffusionPipeline

    from . import damage

    damage.check_files(folder, kwargs)
    with folder_errors(name, damage.pickles(folder, kwargs)):
        pipe = DiffusionPipeline.from_pretrained(name, **kwargs)
    damage.check_keys(pipe, folder, kwargs)
    return pipe


def _lent(homes: Mapping[str, Path], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The components that are in folders of another model of the zoo, unless `kwargs` has them."""
    from diffusers import DiffusionPipeline

    if not homes.keys() - kwargs.keys():
        return {}
    (lender,) = {home.parent for home in homes.values()}
    own = {part: None for part in DiffusionPipeline.load_config(str(lender)) if part not in homes}
    own = {part: None for part in own if not part.startswith("_")}
    pipe = DiffusionPipeline.from_pretrained(str(lender), **(kwargs | own))
    return {name: pipe.components[name] for name in homes}


def locate(name: str) -> Path | None:
    """Folder of a zoo name or local model, `None` for what can only be a Hub id; raises as `load` does."""
    from .zoo import cards, catalogue

    if name in catalogue.REWARDS:
        raise ValueError(
            f"load() gives pipelines and {name!r} is a reward, which scores pictures; "
            f"get it with diffusers_ext.rewards.ShapesCLIP()"
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


@contextmanager
def folder_errors(name: str, pickles: Sequence[Path]) -> Iterator[None]:
    """What fails while a folder is read as an `OSError` of one sentence; arguments of the caller aside.

    `pickles` are the files in it that the host reads only as far as they hold nothing but tensors.
    """
    from .damage import to_convert

    try:
        yield
    except Exception as error:  # each library has its own for files that it cannot read
        if isinstance(error, TypeError | ValueError) and not isinstance(error, json.JSONDecodeError):
            raise
        if pickles:
            raise OSError(to_convert(pickles[0])) from error
        raise OSError(f"the model folder {name!r} cannot be read ({_short(error)}); copy it again") from error


@contextmanager
def hub_errors(name: str) -> Iterator[None]:
    """What fails to come from the Hub as an `OSError` of one sentence."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        yield
    except GatedRepoError as error:
        raise OSError(
            f"{name!r} is gated on the Hub; accept its licence on its page and run 'hf auth login'"
        ) from error
    except RepositoryNotFoundError as error:
        raise OSError(
            f"there is neither a folder nor a public Hub model {name!r}; check the spelling or log in"
        ) from error
    except OSError as error:
        raise OSError(
            f"{name!r} is no folder here and could not be had from the Hub ({_short(error)}); "
            "go online once, or pass a folder with the model"
        ) from error


def _short(error: BaseException) -> str:
    """The beginning of a message of the host, on one line."""
    if "not fully cached" in str(error):
        return "it is not in the local cache, and the Hub cannot be reached"
    return shorten(str(error) or type(error).__name__, 160, placeholder="...").rstrip(".")
