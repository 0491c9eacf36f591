"""Read a pipeline from a folder or fetch it from the Hub; errors become one sentence."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


def check_arguments(kwargs: Mapping[str, Any]) -> None:
    """Raise `ValueError` for arguments that diffusers would ignore, with a line in its log."""
    if (device := kwargs.get("device")) is not None:
        raise ValueError(
            f"a pipeline is read onto the CPU, got device={device!r}; move it with .to({device!r})"
        )
    for name in ("dtype", "torch_dtype"):
        if isinstance(kwargs.get(name), str):
            raise ValueError(f"{name} is a dtype of torch, got {kwargs[name]!r}; write {name}=torch.float16")


def download(name: str, **kwargs: Any) -> Path:
    """Fetch a Hub model and return the folder of its files."""
    from diffusers import DiffusionPipeline

    with hub_errors(name):
        return Path(DiffusionPipeline.download(name, **kwargs))


def pipeline(name: str, folder: Path, kwargs: Mapping[str, Any]) -> DiffusionPipeline:
    """Read the pipeline in `folder`. `name` is what it keeps as its path: the folder or a Hub id."""
    from diffusers import DiffusionPipeline

    from . import damage

    damage.check_files(folder, kwargs)
    with folder_errors(name, damage.pickles(folder, kwargs)):
        pipe = DiffusionPipeline.from_pretrained(name, **kwargs)
    damage.check_keys(pipe, folder, kwargs)
    return pipe


def lent(homes: Mapping[str, Path], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Load the components that are in folders of another shipped model, unless `kwargs` has them."""
    from diffusers import DiffusionPipeline

    if not homes.keys() - kwargs.keys():
        return {}
    (lender,) = {home.parent for home in homes.values()}
    own = {part: None for part in DiffusionPipeline.load_config(str(lender)) if part not in homes}
    own = {part: None for part in own if not part.startswith("_")}
    pipe = DiffusionPipeline.from_pretrained(str(lender), **(kwargs | own))
    return {name: pipe.components[name] for name in homes}


@contextmanager
def folder_errors(name: str, pickles: Sequence[Path]) -> Iterator[None]:
    """Turn errors while a folder is read into an `OSError` of one sentence.

    Errors about arguments of the caller pass. `pickles` are files that are read only if they hold tensors and
    nothing else.
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
    """Turn errors of the Hub into an `OSError` of one sentence."""
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
    """Return the beginning of a message of another library, on one line."""
    if "not fully cached" in str(error):
        return "it is not in the local cache, and the Hub cannot be reached"
    return shorten(str(error) or type(error).__name__, 160, placeholder="...").rstrip(".")
