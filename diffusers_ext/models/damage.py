"""Find damage in the files of a model folder: pointers, cut files, web pages, and absent parts."""

import json
import re
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from ..zoo.cards import INDEX

STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
HEADER_LIMIT = 100_000_000  # bytes; safetensors takes no longer ones
SHOWN = 3  # names in a sentence
OTHER_FORMATS = (".ckpt", ".pt", ".pth", ".pkl", ".bin", ".h5", ".msgpack", ".onnx", ".gguf")


def check_files(folder: Path, kwargs: Mapping[str, Any]) -> None:
    """Raise `OSError` for the first file of a pipeline folder whose contents do not fit its name.

    `kwargs` are those of `from_pretrained`; components in them are not read from the folder. Only the
    beginnings of weights are read.
    """
    index = _read_json(folder / INDEX)
    for name, entry in index.items():
        if name.startswith("_") or name in kwargs or not isinstance(entry, list) or entry[0] is None:
            continue
        home = folder / name
        if not home.is_dir() or not any(home.iterdir()):
            raise OSError(
                f"the model folder {str(folder)!r} has no {name}/, which its {INDEX} asks for; copy the "
                f"whole folder again, or pass load(..., {name}=...)"
            )
        for file in sorted(home.iterdir()):
            if file.suffix == ".json":
                _read_json(file)
            elif file.suffix in (".txt", ".model"):
                _check_kind(file)
        kind = _class(entry)
        if kind is not None:
            _check_parts(kind, home, kwargs)


def check_keys(pipe: Any, folder: Path, kwargs: Mapping[str, Any]) -> None:
    """Raise `OSError` for parts of a loaded pipeline that its weights lack, which would be random."""
    from torch import nn

    for name, model in pipe.components.items():
        home = folder / name
        if name in kwargs or not isinstance(model, nn.Module) or not home.is_dir():
            continue
        if getattr(model, "hf_quantizer", None) is not None:  # it has tensors that no file has
            continue
        files = [file for file in _weights(home, kwargs) if file.suffix == ".safetensors"]
        if not files:
            continue
        known = set().union(*(_header(file) for file in files))
        state = model.state_dict()
        absent = state.keys() - known
        # One tensor may bear two names, of which a file has one.
        there = {state[key].data_ptr() for key in state.keys() & known if not state[key].is_meta}
        if not any(state[key].is_meta or state[key].data_ptr() not in there for key in absent):
            continue
        # Names in files may be older ones, which only the library that reads them can translate.
        lacking = _missing_keys(type(model), home, kwargs)
        if lacking:
            raise OSError(
                f"the weights in {str(home)!r} lack {len(lacking)} of the {len(state)} tensors of "
                f"{type(model).__name__} ({_shown(lacking)}), which would be random; copy the folder again, "
                "or the part that fits its config.json"
            )


def _missing_keys(kind: type, home: Path, kwargs: Mapping[str, Any]) -> list[str]:
    """List the missing tensors by loading once more with the loader of the class."""
    local = {"variant": kwargs["variant"]} if kwargs.get("variant") else {}
    _, info = kind.from_pretrained(str(home), output_loading_info=True, **local)
    return sorted(info["missing_keys"])


def _class(entry: list[str]) -> type | None:
    """Return the class of a component in the index; `None` outside diffusers and transformers."""
    homes = {"diffusers": "diffusers", "transformers": "transformers"}
    try:
        return getattr(import_module(homes.get(entry[0], f"diffusers.pipelines.{entry[0]}")), entry[1], None)
    except ImportError:
        return None


def _check_parts(kind: type, home: Path, kwargs: Mapping[str, Any]) -> None:
    """Raise `OSError` if the files of a component do not suffice for its class."""
    from torch import nn

    if issubclass(kind, nn.Module):
        if not (home / "config.json").is_file():
            raise OSError(f"{str(home)!r} has no config.json; copy it again")
        files = list(_weights(home, kwargs))
        if not files:
            others = sorted(file for file in home.iterdir() if file.suffix in OTHER_FORMATS)
            if others:
                raise OSError(to_convert(others[0]))
            raise OSError(
                f"{str(home)!r} has no weights ({STEMS[0]}.safetensors or {STEMS[1]}.safetensors); copy "
                "them again"
            )
        for file in files:
            if not file.is_file():
                raise OSError(
                    f"{str(file)!r} is missing, although the index beside it names it; copy it again"
                )
            if file.suffix == ".safetensors":
                _header(file)
            else:
                _check_kind(file)
        _check_index(home, files)
    elif names := getattr(kind, "vocab_files_names", None):
        whole = home / "tokenizer.json"
        needed = [file for key, file in names.items() if key != "tokenizer_file"]
        if not whole.is_file() and not all((home / file).is_file() for file in needed):
            raise OSError(
                f"{str(home)!r} has no vocabulary "
                f"(tokenizer.json{', or ' if needed else ''}{' and '.join(needed)}); copy it again"
            )


def _weights(home: Path, kwargs: Mapping[str, Any]) -> Iterator[Path]:
    """List the files that diffusers would read for a model, present or not: safetensors, else pickles."""
    asked = kwargs.get("variant")
    endings = (["safetensors"] if kwargs.get("use_safetensors") is not False else []) + ["bin"]
    for ending in endings:
        for variant in dict.fromkeys((asked, None)):
            tag = rf"\.{re.escape(variant)}" if variant else ""
            for stem in STEMS:
                index = re.compile(rf"{stem}({tag})?\.{ending}\.index({tag})?\.json")
                whole = re.compile(rf"{stem}{tag}\.{ending}")
                names = sorted(file.name for file in home.iterdir())
                if whole_ones := [n for n in names if whole.fullmatch(n)]:
                    yield home / whole_ones[0]
                    return
                listed = [n for n in names if index.fullmatch(n) and (not variant or variant in n)]
                if listed:
                    parts = _read_json(home / listed[0]).get("weight_map", {}).values()
                    yield from (home / part for part in sorted(set(parts)))
                    return


def _check_index(home: Path, files: list[Path]) -> None:
    """Raise `OSError` if the index of several files names a tensor that its file does not hold.

    diffusers trusts the index.
    """
    for listed in sorted(home.glob("*.index*.json")):
        names = _read_json(listed).get("weight_map", {})
        for file in files:
            mine = [key for key, part in names.items() if part == file.name]
            if file.suffix == ".safetensors" and (lacking := sorted(set(mine) - _header(file))):
                raise OSError(
                    f"{str(file)!r} lacks {len(lacking)} of the {len(mine)} tensors that {listed.name} has "
                    f"in it ({_shown(lacking)}); copy it again"
                )


def _shown(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + ("" if len(names) <= SHOWN else ", ...")


def pickles(folder: Path, kwargs: Mapping[str, Any]) -> list[Path]:
    """List the weights of a pipeline folder that would be read as pickles."""
    homes = [home for home in sorted(folder.iterdir()) if home.is_dir() and home.name not in kwargs]
    return [file for home in homes for file in _weights(home, kwargs) if file.suffix == ".bin"]


def to_convert(file: Path) -> str:
    """Write a sentence about weights in a format that is not read, or not safely."""
    return (
        f"{str(file)!r} cannot be read safely, since only safetensors and plain tensors are; if you trust "
        "where it comes from, write them with safetensors.torch.save_file(torch.load(FILE, "
        f"weights_only=False), '{STEMS[0]}.safetensors')"
    )


def _header(file: Path) -> set[str]:
    """Return the names of the tensors in a safetensors file; raises `OSError` if it is none or cut off."""
    _check_kind(file)
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        try:
            if size < 8 or length > min(HEADER_LIMIT, size):
                raise ValueError
            header = json.loads(stream.read(length))
            header.pop("__metadata__", None)
            end = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise OSError(f"{str(file)!r} is no safetensors file, or is cut off; copy it again") from error
    if end != size:
        raise OSError(f"{str(file)!r} has {size} of its {end} bytes; copy it again")
    return set(header)


def _check_kind(file: Path) -> None:
    """Raise `OSError` for a file that is of another kind than its name says."""
    if file.stat().st_size == 0:
        raise OSError(f"{str(file)!r} is empty; copy it again")
    with file.open("rb") as stream:
        start = stream.read(64).lstrip().lower()
    if start.startswith(b"version https://git-lfs"):
        raise OSError(
            f"{str(file)!r} is a pointer of git-lfs, not the file; run 'git lfs pull' in its repository"
        )
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise OSError(
            f"{str(file)!r} is a web page, such as a download without a log-in leaves; fetch the file again"
        )


def _read_json(file: Path) -> Any:
    _check_kind(file)
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise OSError(f"{str(file)!r} is no JSON in UTF-8 ({error}); copy it again") from error
