"""What a session costs: host alone, our dense processors, SoftPAG in its scopes, side by side in one run.

    python -m bench.guidance_cost --device cpu

Each row is timed in turn with the host (A B A B ...), so that the ratio survives a busy machine, and is
printed beside the check that it computes the right thing. The denoisers are real diffusers classes with
random weights: time does not depend on what they have learned. Results are written after each row.
"""

import statistics
from argparse import Namespace
from collections.abc import Callable
from functools import partial

import torch
from diffusers import FluxTransformer2DModel, SD3Transformer2DModel
from torch import Tensor, nn

import diffusers_ext as dx

from .ledger import Row
from .runner import Latest, options, run
from .slices import twin
from .timing import Stopwatch, in_turns

Inputs = dict[str, Tensor]
CASES = {
    "dense processors": (None, 1.0),
    "SoftPAG u=0": ({"strength": 0.0}, 1.0),
    "SoftPAG image_rows": ({"strength": 0.5}, 2.0),
    "SoftPAG image_block": ({"strength": 0.5, "scope": "image_block"}, 2.0),
}  # settings of SoftPAG, and how many times the host's call is to be expected
LINE = "{model:6} {tokens:6} {case:20} {ratio:.2f} {expected:.1f} {error:.2e}"


def models(device: str) -> dict[str, tuple[Callable[[], nn.Module], Callable[[int], Inputs], list[int]]]:
    """Return by name (what builds the denoiser, inputs for a side of n tokens, sides); larger on a GPU."""
    big = device != "cpu"
    width = dict(num_attention_heads=24 if big else 6, attention_head_dim=64)
    dim = width["num_attention_heads"] * width["attention_head_dim"]
    dtype = torch.bfloat16 if big else torch.float32

    def sd3() -> nn.Module:
        return SD3Transformer2DModel(
            sample_size=128, patch_size=2, in_channels=16, num_layers=8, **width, joint_attention_dim=256,
            caption_projection_dim=dim, pooled_projection_dim=256, qk_norm="rms_norm", pos_embed_max_size=96,
        ).to(device, dtype).eval()  # fmt: skip

    def flux() -> nn.Module:
        return FluxTransformer2DModel(
            in_channels=64, num_layers=2, num_single_layers=4, **width, joint_attention_dim=256,
            pooled_projection_dim=256, axes_dims_rope=(16, 24, 24),
        ).to(device, dtype).eval()  # fmt: skip

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).to(device, dtype)

    def sd3_inputs(n: int) -> dict[str, Tensor]:
        return dict(
            hidden_states=randn(1, 16, 2 * n, 2 * n), encoder_hidden_states=randn(1, 77, 256),
            pooled_projections=randn(1, 256), timestep=torch.full((1,), 500.0, device=device),
        )  # fmt: skip

    def flux_inputs(n: int) -> dict[str, Tensor]:
        rows, columns = torch.meshgrid(torch.arange(n), torch.arange(n), indexing="ij")
        ids = torch.stack([torch.zeros_like(rows), rows, columns], -1).reshape(-1, 3).to(device)
        return dict(
            hidden_states=randn(1, n * n, 64), encoder_hidden_states=randn(1, 77, 256), img_ids=ids,
            pooled_projections=randn(1, 256), timestep=torch.full((1,), 0.5, device=device),
            txt_ids=torch.zeros(77, 3, device=device),
        )  # fmt: skip

    sides = [32, 64] if big else [8, 16]
    return {"SD3": (sd3, sd3_inputs, sides), "FLUX": (flux, flux_inputs, sides)}


@torch.no_grad()
def measure(name: str, model: nn.Module, call: Inputs, tokens: int, case: str, args: Namespace) -> list[Row]:
    """Return the row of one case on one denoiser at one size.

    `ratio` is time over the host's, `expected` its theoretical value, and `error` the largest difference.
    """
    joint = [site.name for site in dx.summary(model).denoisers[0][3] if site.kind == "joint"]
    settings, expected = CASES[case]
    middle = {joint[len(list(model.children())) // 2]: None}
    methods = () if settings is None else (dx.SoftPAG(heads=middle, scale=1.0, **settings),)
    ours = twin(model)
    stock = model(**call, return_dict=False)[0]
    with dx.apply(ours, *methods):
        changed = ours(**call, return_dict=False)[0]
        calls = [partial(part, **call, return_dict=False) for part in (model, ours)]
        times = in_turns(Stopwatch(args.device), *calls, repeats=args.repeats)
    ratios = [ms / alone for alone, ms in zip(*times, strict=True)]
    error = float((changed - stock).abs().max())
    same = expected == 1.0
    ok = (error == 0.0) if same else (error > 0 and bool(changed.isfinite().all()))
    check = ("bit-equal to the host" if same else "finite and different") if ok else "FAILED"
    row = {"model": name, "tokens": tokens, "case": case, "ratio": statistics.median(ratios)}
    return [row | {"expected": expected, "error": error, "check": check}]


def main(arguments: list[str] | None = None) -> list[Row]:
    parser = options(__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args(arguments)
    torch.manual_seed(0)
    known = models(args.device)
    built = Latest(lambda name: known[name][0]())

    def cell(name: str, side: int, case: str) -> list[Row]:
        return measure(name, built(name), known[name][1](side), side * side, case, args)

    cases = {
        f"{name} {side * side} {case}": partial(cell, name, side, case)
        for name, (_, _, sides) in known.items()
        for side in sides
        for case in CASES
    }
    return run("guidance_cost", cases, args, LINE)


if __name__ == "__main__":
    main()
