"""Make a picture once more from its record, and say what is different now, before and after."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import making, scoring
from . import options as opt

if TYPE_CHECKING:
    from ..models.checkpoint import Checkpoint
    from ..sampling.items import Picture

_NEEDED = ("prompt", "seed", "model", "methods", "call", "dtype", "device")
_MARKS = ("pipeline", "weights", "configs", "dtype", "device")


def make(path: Path, record: dict[str, Any], embedded: bool, target: Path, model: str | None = None) -> None:
    """Make the picture at `path` from `record`, write it to `target`, and say if the files are the same.

    `embedded` says if the record goes into the file. `model` stands in for the name in the record. What is
    different from the record is said first. Raises `ValueError` for a record that is no complete one, and for
    a model that is not here.
    """
    from ..models.checkpoint import Checkpoint
    from ..outputs.record import versions
    from ..sampling.call import arguments, seed_of
    from ..sampling.generate import applied, generate
    from ..sampling.items import Item

    _check(path, record)
    checkpoint = Checkpoint.resolve(model or record["model"])
    source = f"the record of {path.name}"
    methods, samplers = _split(record["methods"], source)
    pipe = checkpoint.load(_device(record["device"]), record["dtype"])
    now = {
        "pipeline": type(pipe).__name__,
        **checkpoint.quick_marks,
        "dtype": str(pipe.dtype).removeprefix("torch."),
        "device": pipe.device.type,
    }
    for sentence in [*_others(record, now), *_versions(record.get("versions", {}), versions())]:
        opt.warn(sentence)
    item = Item(str(record["prompt"]), seed_of(record["seed"]))
    call = arguments(pipe, {}, unread=True, **record["call"])
    sampler = _sampler(samplers, checkpoint, source)
    progress = making.progress(1, "clip" if record.get("fps") else "image")
    with progress, applied(pipe, methods):
        for pictures in generate(pipe, [item], call, 1, progress, sampler):
            made = {**record, **now, "versions": versions()}
            _write(target, pictures[0], made, embedded)
            progress.tick(1)
            progress.line(f"{target}  {_compared(path, target)}")
    making.end(progress)


def _check(path: Path, record: Mapping[str, Any]) -> None:
    kinds = {"methods": list, "call": dict, "model": str, "prompt": str}
    for key in _NEEDED:
        if key not in record or not isinstance(record[key], kinds.get(key, object)):
            raise ValueError(
                f"a picture is made again from a record of generate, and that of {path.name} has no {key}; "
                "it was made by another command or program"
            )
    if not all(isinstance(method, dict) and "name" in method for method in record["methods"]):
        raise ValueError(f"the record of {path.name} has methods without names; it was changed")


def _split(found: list[dict[str, Any]], source: str) -> tuple[tuple[Any, ...], list[dict[str, Any]]]:
    """Return the methods of a record, built, and the samplers as they are in it."""
    from ..settings.methods import checked, method_class
    from ..settings.registry import SAMPLERS

    samplers = [entry for entry in found if entry["name"] in SAMPLERS]
    methods = []
    for entry in found:
        if entry not in samplers:
            values = {key: value for key, value in entry.items() if key != "name"}
            methods.append(method_class(entry["name"])(**checked(entry["name"], values, source)))
    return tuple(methods), samplers


def _sampler(found: list[dict[str, Any]], model: Checkpoint, source: str) -> Any:
    """Return the sampler of a record, or `None`; warns of what no record can fix."""
    from ..settings.samplers import from_dict

    if not found:
        return None
    (data,) = found
    if "prune_reward" in data:
        raise ValueError(
            f"{source} has a search with a reward that only prunes, which is no name; run it anew"
        )
    facts = [fact for fact in data.get("rewards", []) if isinstance(fact, dict)]
    texts = [f"{fact.get('name')}:{fact.get('weight', 1)}" for fact in facts]
    scorers = scoring.chosen(texts, model, None) if texts else None
    for was, now in zip(facts, scorers.facts if scorers else (), strict=True):
        if was.get("weights") != now["weights"]:
            opt.warn(f"the weights of the reward {now['name']} are others than those of the record")
    if data.get("seconds") is not None:
        opt.warn(
            f"the search had {data['seconds']} s, so a slower or faster machine may choose another picture"
        )
    return from_dict(data, scorers.rewards if scorers else None)


def _device(name: str) -> str | None:
    """Return the device of a record if it is here, and otherwise `None` for the usual one."""
    import torch

    here = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    return name if here.get(name) else None


def _others(record: Mapping[str, Any], now: Mapping[str, str]) -> list[str]:
    """Say what is not as it was: the model's files, its class, dtype and device."""
    pairs = {key: (str(record.get(key))[:12], now[key][:12]) for key in _MARKS if record.get(key) != now[key]}
    return [f"the record has other {key}: {was} then, {found} now" for key, (was, found) in pairs.items()]


def _versions(was: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    others = [name for name in was if now.get(name) not in (None, was[name])]
    said = "; ".join(f"{name} {was[name]} then, {now[name]} now" for name in others)
    return [f"versions are others than those of the record: {said}"] if others else []


def _write(target: Path, picture: Picture, made: dict[str, Any], embedded: bool) -> None:
    """Write the picture with its record; size and flags are written where the record had them."""
    from ..outputs.record import comment, write_image
    from ..outputs.video import write_video
    from ..sampling.clip import Clip

    image = picture.image
    made |= {k: v for k, v in (("size", list(image.size)), ("flags", list(picture.flags))) if k in made}
    if isinstance(image, Clip):
        write_video(target, image.frames, made["fps"], comment(made) if embedded else None)
    else:
        write_image(target, image, made if embedded else None)


def _compared(path: Path, target: Path) -> str:
    """Say whether two files are the same, and else how much of their pixels is."""
    if path.read_bytes() == target.read_bytes():
        return f"the same bytes as {path.name}"
    import numpy as np
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as first, Image.open(target) as second:
            one, other = (np.asarray(i.convert("RGB")).astype(int) for i in (first, second))
    except UnidentifiedImageError:
        return f"other bytes than {path.name}"
    if one.shape != other.shape:
        return f"another size than {path.name}"
    gaps = np.abs(one - other).max(-1)
    if not gaps.any():
        return f"the same pixels as {path.name}, with another record"
    return (
        f"{(gaps > 0).mean():.1%} of the pixels are not those of {path.name}, by at most {gaps.max()} of 255"
    )
