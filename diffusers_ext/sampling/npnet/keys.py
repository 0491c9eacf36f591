"""Read and write published files of NPNet, whose tensors have other names.

Three layouts exist. The official `.pth` is a dict of state dicts `unet_svd`, `unet_embedding` and `embeeding`
(their spelling), with `alpha` and `beta`. Two mirrors hold the same tensors flat in safetensors; one of them
says `text_embedding`.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from ...outputs.files import replacing
from .network import NPNetModel

TEXT = ("embeeding", "text_embedding", "embedding")
PARTS = {"unet_svd": "svd", "unet_embedding": "residual", **dict.fromkeys(TEXT, "text")}
UNUSED = ("svd.bn.", "residual.swin.head.")  # the forward pass of the published code has no use for them
BUFFERS = ("relative_position_index", "attn_mask")
PICKLES = (".pth", ".pt", ".bin", ".ckpt")
TABLE = "attn.relative_position_bias_table"
CLASSES = 1000  # of the unused classifier


def read_official(path: str | os.PathLike[str], **config: Any) -> NPNetModel:
    """Load a published file: the official `.pth`, or a safetensors mirror of it.

    Sizes are read from the shapes of its tensors. `config` overrides what was read, such as
    `svd_attention=False`. Warns if the attention was never trained. Raises `ValueError` for a file that is no
    NPNet or holds more than tensors, and `FileNotFoundError`.
    """
    named = tensors(Path(path))
    model = NPNetModel(**{**sizes(named, path), **config})
    load(model, named, path)
    return model.eval()


def tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a published file by our names, in float32.

    Raises `ValueError` if the file holds more than tensors or is of another kind, and `FileNotFoundError`.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = path.expanduser()
    if not path.is_file():
        raise FileNotFoundError(
            f"the weights of an NPNet are one file, {str(path)!r} is none; check the path"
        )
    try:
        if path.suffix in PICKLES:
            found = torch.load(path, map_location="cpu", weights_only=True)
        else:
            found = load_file(path)
    except UnpicklingError as error:
        raise ValueError(
            f"a file of weights may hold tensors only, {str(path)!r} holds other objects, which could run "
            "code; open it in a place that you trust and save its dict of tensors with "
            "safetensors.torch.save_file"
        ) from error
    except (SafetensorError, RuntimeError, EOFError, OSError) as error:
        raise ValueError(
            f"the file {str(path)!r} cannot be read as weights of an NPNet ({error}); fetch it again"
        ) from error
    named = {_ours(name): tensor.float() for name, tensor in _flat(found).items()}
    return _new_indices({k: v for k, v in named.items() if not k.startswith(UNUSED)})


def _flat(found: Any) -> dict[str, Tensor]:
    if not isinstance(found, Mapping):
        return {}
    flat = {}
    for name, value in found.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}.{inner}": tensor for inner, tensor in value.items()}
        elif isinstance(value, (Tensor, float, int)):
            flat[name] = torch.as_tensor(value)
    return {k: v for k, v in flat.items() if not k.endswith(BUFFERS)}


def _ours(name: str) -> str:
    part, dot, rest = name.partition(".")
    return f"{PARTS.get(part, part)}{dot}{rest}"


def _new_indices(named: dict[str, Tensor]) -> dict[str, Tensor]:
    """Count the merges of a Swin with the stage that they begin; old files count them with the one before."""
    start = "residual.swin.layers."
    if not any(name.startswith(f"{start}0.downsample.") for name in named):
        return named
    new = {}
    for name, tensor in named.items():
        index, _, rest = name.removeprefix(start).partition(".")
        merges = name.startswith(start) and rest.startswith("downsample.")
        new[f"{start}{int(index) + 1}.{rest}" if merges else name] = tensor
    return new


def sizes(named: Mapping[str, Tensor], path: object) -> dict[str, Any]:
    """Return the configuration of a network that has tensors of these shapes.

    The text is taken to have 77 tokens, and channels to be folded into a square. Raises `ValueError` if
    tensors are missing.
    """
    swin = "residual.swin."
    try:
        channels = named["residual.downconv.weight"].shape[1]
        width, _, patch, _ = named[f"{swin}patch_embed.proj.weight"].shape
        stages = 1 + max(int(k.split(".")[3]) for k in named if k.startswith(f"{swin}layers."))
        tables = [named[f"{swin}layers.{i}.blocks.0.{TABLE}"].shape for i in range(stages)]
        rows, columns = (named[f"svd.mlp{i}.0.weight"].shape[1] for i in (1, 2))
        hidden, last = (named[f"svd.mlp{i}.0.weight"].shape[0] for i in (1, 4))
        text, side = named["text.linear.weight"].shape[1], named["residual.upconv.weight"].shape[1]
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"the file {str(path)!r} must hold an NPNet, and it lacks {str(error)[:80]}; use a file of "
            "Golden-Noise-for-Diffusion-Models or one that export_official wrote"
        ) from error
    fold = math.isqrt(channels)
    depths = [
        sum(k.startswith(f"{swin}layers.{i}.") and k.endswith(TABLE) for k in named) for i in range(stages)
    ]
    return {
        "sample_size": (rows // fold, columns // fold),
        "in_channels": channels,
        "fold": (fold, channels // fold),
        "text_tokens": 77,
        "text_width": text // 77,
        "svd_hidden": hidden,
        "svd_last_hidden": last,
        "swin_size": patch * side << (stages - 1),
        "swin_patch": patch,
        "swin_window": max((math.isqrt(pairs) + 1) // 2 for pairs, _ in tables),
        "swin_width": width,
        "swin_depths": tuple(depths),
        "swin_heads": tuple(heads for _, heads in tables),
    }


def load(model: NPNetModel, named: Mapping[str, Tensor], path: object) -> None:
    """Put tensors into a network.

    Warns if its attention was never trained. Raises `ValueError` for missing, unknown and misshapen tensors.
    """
    wanted = model.state_dict()
    named = {k: v.reshape(1) if k in ("alpha", "beta") else v for k, v in named.items()}
    wrong = sorted(named.keys() ^ wanted.keys())
    wrong += [k for k in wanted if k in named and named[k].shape != wanted[k].shape]
    if wrong:
        raise ValueError(
            f"the tensors of {str(path)!r} must be those of the network, {len(wrong)} are missing, unknown "
            f"or of another shape, {wrong[0]} for instance; give the settings that it was trained with"
        )
    model.load_state_dict(named)
    if model.config.svd_attention and untrained_attention(model):
        warnings.warn(
            f"diffusers_ext: the attention of the NPNet {Path(str(path)).name} looks untrained, its weights "
            "are where they were drawn; compare with svd_attention=False",
            stacklevel=3,
        )


def untrained_attention(model: NPNetModel) -> bool:
    """Return whether all weights of the attention of S are within the bounds that they are drawn from.

    The published trainer for SDXL leaves them out of the network, while inference uses them.
    """
    attention = model.svd.attention
    bound = attention.proj.in_features**-0.5 * (1 + 2**-10)  # files may be rounded to fp16
    return all(p.abs().max() <= bound for p in attention.parameters())


def export_official(model: NPNetModel, path: str | os.PathLike[str]) -> None:
    """Write a network in the official layout, with the tensors that no forward pass uses.

    The suffix `.safetensors` makes the flat layout, another one the official dict. Raises `ValueError` for
    networks whose settings the layout cannot express.
    """
    from safetensors.torch import save

    path, config = Path(path), model.config
    if config.swin_layout != "published":
        raise ValueError(
            f"the official layout has swin_layout published, got {config.swin_layout}; use save_pretrained"
        )
    if tuple(config.fold) != (math.isqrt(config.in_channels),) * 2:
        raise ValueError(
            f"the official layout folds channels into a square, got a fold of {tuple(config.fold)} for "
            f"{config.in_channels} channels; use save_pretrained"
        )
    names = {"svd": "unet_svd", "residual": "unet_embedding", "text": TEXT[0]}
    official: dict[str, Any] = {name: {} for name in names.values()}
    for name, tensor in model.state_dict().items():
        part, _, rest = name.partition(".")
        tensor = tensor.detach().float().cpu().contiguous()
        if rest:
            official[names[part]][rest] = tensor
        else:
            official[part] = tensor
    rank = model.svd.attention.proj.in_features
    bn = {"weight": torch.ones, "bias": torch.zeros, "running_mean": torch.zeros, "running_var": torch.ones}
    official["unet_svd"] |= {f"bn.{name}": fill(rank) for name, fill in bn.items()}
    official["unet_svd"]["bn.num_batches_tracked"] = torch.tensor(0)
    features = model.residual.swin.norm.weight.numel()
    official["unet_embedding"]["swin.head.fc.weight"] = torch.zeros(CLASSES, features)
    official["unet_embedding"]["swin.head.fc.bias"] = torch.zeros(CLASSES)
    with replacing(path, parents=True) as file:
        if path.suffix == ".safetensors":
            file.write(save(_flat(official), metadata={"format": "pt"}))
        else:
            torch.save(official, file)
