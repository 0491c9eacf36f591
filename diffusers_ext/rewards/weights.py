"""Read the tensors of a weight file, from this machine or from the Hub, without running its code."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from zipfile import BadZipFile

import torch
from torch import Tensor


def locate(source: str | os.PathLike[str], file: str) -> Path:
    """Return the path of `source`, of `file` in the folder `source`, or of `file` in a repository of the Hub.

    Raises `FileNotFoundError` if there is no such file.
    """
    place = Path(source).expanduser()
    if place.is_file():
        return place
    if place.is_dir():
        if (place / file).is_file():
            return place / file
        raise FileNotFoundError(f"{str(place)!r} has no {file}; pass the path of the weight file")
    if not _is_repository(source):
        raise FileNotFoundError(
            f"weights are a file, a folder with {file}, or a name of the Hub such as owner/name, got "
            f"{os.fspath(source)!r}; check the path"
        )
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(str(source), file))


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file, or of a file of `torch.save` that holds only tensors.

    Tensors below the key `state_dict` are found, too. Raises `ValueError` for a file that holds objects,
    since reading these runs code of the file.
    """
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(
                f"{str(path)!r} is no safetensors file, or is cut off ({error}); copy it again"
            ) from error
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, LookupError, BadZipFile) as error:
        raise ValueError(
            f"weights are read as safetensors or as a file of torch.save with nothing but tensors, and "
            f"{str(path)!r} is neither; where you trust it, load it yourself and write its tensors by "
            "safetensors.torch.save_file(tensors, 'weights.safetensors')"
        ) from error
    found = found.get("state_dict", found) if isinstance(found, dict) else {}
    tensors = {key: value for key, value in found.items() if isinstance(value, Tensor)}
    if not tensors:
        raise ValueError(f"{str(path)!r} holds no tensors by name; pass the file of the weights")
    return tensors


def _is_repository(source: str | os.PathLike[str]) -> bool:
    owner, slash, name = str(source).partition("/")
    return (
        bool(isinstance(source, str) and owner and slash and name)
        and "/" not in name
        and owner[0] not in ".~"
    )
