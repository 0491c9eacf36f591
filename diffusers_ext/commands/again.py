"""Make a picture once more from its record, and say what is not as it was."""

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
    different from the record is said first. A model that only the record names is not fetched.

    Raises `ValueError` for a record that is no complete one, and for a model that is not here.
    """
    from ..models.checkpoint import Checkpoint
    from ..outputs.record import versions
    from ..sampling.call import arguments, makes_videos, seed_of
    from ..sampling.generate import applied, generate
    from ..sampling.items import Item

    _check(path, record)
    source = f"the record of {path.name}"
    checkpoint = Checkpoint.resolve(model) if model else _here(record["model"], source)
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
    if makes_videos(pipe) and not record.get("fps"):
        raise ValueError(f"{source} has no fps, which a clip needs; it was changed")
    item = Item(record["prompt"], seed_of(record["seed"]))
    call = arguments(pipe, {}, unread=True, **_call(record["call"], source))
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
    if missing := [key for key in _NEEDED if key not in record]:
        raise ValueError(
            f"a picture is made again from a record of generate, and that of {path.name} has no "
            f"{missing[0]}; it was made by another command or program"
        )


def _here(name: str, source: str) -> Checkpoint:
    """Return the model that a record names. The picture may be of a stranger, so nothing is fetched."""
    from ..models.checkpoint import Checkpoint

    checkpoint = Checkpoint.resolve(name)
    try:
        return checkpoint.here()
    except OSError as error:
        raise ValueError(
            f"{source} names the Hub model {name}, which is not on this disk; --model {name} fetches it"
        ) from error


def _call(found: dict[str, Any], source: str) -> dict[str, Any]:
    """Check the arguments of a record; raises `ValueError` for those that no record has."""
    from ..jobs.prompts.entries import ARGUMENTS
    from ..sampling.call import SINGLE
    from ..settings.fields import fit

    for name, value in found.items():
        if name in SINGLE or "callback" in name:
            raise ValueError(f"{source} sets {name}, which belongs to a single call; it was changed")
        fit(value, ARGUMENTS.get(name, Any), f"{source}: {name}")
    return found


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
    from dataclasses import replace

    from ..pipelines.sampler_data import from_data

    if not found:
        return None
    if len(found) > 1:
        raise ValueError(f"{source} has several searches where one is made; it was changed")
    data = _rebuildable(found[0], source)
    facts = data.pop("rewards", [])
    if not isinstance(facts, list) or not all(isinstance(fact, dict) for fact in facts):
        raise ValueError(f"{source} has rewards that cannot be read; it was changed")
    texts = [f"{fact.get('name')}:{fact.get('weight', 1)}" for fact in facts]
    scorers = scoring.chosen(texts, model, None) if texts else None
    for was, now in zip(facts, scorers.facts if scorers else (), strict=False):
        if was.get("weights") != now["weights"]:
            opt.warn(f"the weights of the reward {now['name']} are others than those of the record")
    if data.get("seconds") is not None:
        opt.warn(f"the search ended after {data['seconds']} s at most, and may now end elsewhere")
    return replace(from_data(data, source), rewards=scorers.rewards if scorers else None)


def _rebuildable(data: dict[str, Any], source: str) -> dict[str, Any]:
    """Return the data of a sampler with the name of its network in place of the checksum."""
    if "prune_reward" in data:
        raise ValueError(f"{source} has a search with prune_reward, which has no name; run it from Python")
    found = dict(data)
    if isinstance(network := found.get("model"), str):
        found["model"] = _network(network, source)
    for name in ("noise", "refine"):
        if isinstance(inner := found.get(name), dict):
            found[name] = _rebuildable(inner, source)
    return found


def _network(mark: str, source: str) -> str:
    """Return the name of the network in the zoo whose checksum a record has."""
    from ..sampling.npnet.transform import NPNet
    from ..settings.samplers import as_dict
    from ..zoo.catalogue import NOISES

    for name in NOISES:
        if as_dict(NPNet.from_pretrained(name))["model"] == mark:
            return name
    raise ValueError(
        f"{source} has a network {mark[:24]!r}, which is none of the zoo ({', '.join(NOISES)}); search again "
        "with its folder"
    )


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
    """Say whether two files are the same, and otherwise how many pixels are not."""
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
    share, most = (gaps > 0).mean(), gaps.max()
    return f"{share:.1%} of the pixels are others than in {path.name}, by at most {most} of 255"
