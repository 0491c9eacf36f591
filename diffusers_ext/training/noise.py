"""Train an NPNet for any text-to-image pipeline, from pairs that `collect` made with it."""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..sampling.npnet.collect import SETTINGS
from .export import export
from .fit import Run, fit

NAME = "npnet"
SIZES = ("sample_size", "in_channels", "text_tokens", "text_width")  # which pairs and pipeline decide


def run(model: str, pairs: Path, settings: Sequence[str], out: Path, how: Run | None = None) -> Path:
    """Train a network for `model` on the folder `pairs` and write it to the folder `out`.

    `settings` (`key=value`) are those of `NPNetModel`, such as `swin_width=32`. An interrupted run writes
    what it has and goes on from its checkpoint. Raises `ValueError` for settings that are unknown or decided
    by the pipeline, and for pairs of another model. Raises `OSError` if a folder cannot be read.
    """
    import torch

    from ..models.checkpoint import Checkpoint
    from ..sampling.host_call import HostCall
    from ..sampling.npnet.network import NPNetModel
    from ..sampling.npnet.transform import prompt_embeds
    from .data.noise_pairs import NoisePairs
    from .objectives.npnet import NPNetObjective
    from .recipes import NPNetConfig

    how = how or Run()
    data, made = NoisePairs(pairs), json.loads((pairs / SETTINGS).read_text(encoding="utf-8"))
    if made["model"] not in ("", model):
        raise ValueError(
            f"an NPNet learns from pairs of its own model, {pairs} has those of {made['model']}, got "
            f"{model}; collect pairs with it first"
        )
    checkpoint = Checkpoint.resolve(model)
    pipe = checkpoint.read(dtype=torch.float32)
    pipe.to("cuda" if torch.cuda.is_available() else "cpu")
    call = {**checkpoint.call, **made["call"]}

    def encode(prompts: Sequence[str]) -> torch.Tensor:
        return prompt_embeds(HostCall(pipe, list(prompts), **call)).float().cpu()

    example = data.read([0])
    shape, text = example.noise.shape[1:], encode(example.prompts).shape[1:]
    sizes: dict[str, Any] = dict(zip(SIZES, ((*shape[1:],), shape[0], *text), strict=True))
    torch.manual_seed(how.seed)
    network = NPNetModel(**sizes, **chosen(settings))
    origin = {"pairs": data.mark, "network": {k: _plain(v) for k, v in network.config.items() if k[0] != "_"}}
    objective = NPNetObjective(network, data, encode, NPNetConfig(), seed=how.seed)
    fit(objective, out, how, origin)
    facts = {"noise_of": model, "collection": made, "pairs": len(data.rows)}
    export(objective, out, out, NAME, **facts, data=_data(made, len(data.rows)))
    return out


def chosen(settings: Sequence[str]) -> dict[str, Any]:
    """Read settings of the network from text; raises `ValueError` for one that it does not have."""
    from ..sampling.npnet.network import NPNetModel

    known = set(inspect.signature(NPNetModel).parameters) - {*SIZES}
    values = {}
    for text in settings:
        key, sign, raw = text.partition("=")
        if not sign or key.strip() not in known:
            raise ValueError(
                f"--set takes key=value with one of {', '.join(sorted(known))}, got {text!r}; the pipeline "
                "decides all other sizes"
            )
        try:
            values[key.strip()] = _plain(json.loads(raw))
        except ValueError:
            values[key.strip()] = raw.strip()
    return values


def _plain(value: Any) -> Any:
    """Turn tuples into lists, as JSON has them."""
    return list(value) if isinstance(value, tuple) else value


def _data(made: dict[str, Any], count: int) -> str:
    return (
        f"{count} pairs by re-denoise sampling with {made['pipeline']}, the first of {made['steps']} steps, "
        f"scales {made['w_denoise']:g} and {made['w_invert']:g}"
    )
