"""What a session costs: host alone, our dense processors, SoftPAG in its scopes, side by side in one run.

    python -m bench.guidance_cost --device cpu

Each row is timed in turn with the host (A B A B ...), so that the ratio survives a busy machine, and is
printed beside the check that it computes the right thing. The denoisers are real diffusers classes with
random weights: time does not depend on what they have learned. Results are written after each row.
"""

import argparse
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import FluxTransformer2DModel, SD3Transformer2DModel
from torch import Tensor, nn

import diffusers_ext as dx

from .ledger import Ledger
from .timing import RESULTS, Stopwatch, machine, results_file


@dataclass(frozen=True)
class Row:
    """One line of the table: `ratio` is time over the host's, `expected` its theoretical value, `error` max
    abs.
    """

    model: str
    tokens: int
    case: str
    ratio: float
    expected: float
    error: float
    check: str


Inputs = dict[str, Tensor]
CASES = {
    "dense processors": (None, 1.0),
    "SoftPAG u=0": ({"strength": 0.0}, 1.0),
    "SoftPAG image_rows": ({"strength": 0.5}, 2.0),
    "SoftPAG image_block": ({"strength": 0.5, "scope": "image_block"}, 2.0),
}  # settings of SoftPAG, and how many times the host's call is to be expected


def models(device: str) -> dict[str, tuple[Callable[[], nn.Module], Callable[[int], Inputs], list[int]]]:
    """Name -> (what builds the denoiser, inputs for a side of n tokens, sides); larger on a GPU."""
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
def measure(
    name: str, model: nn.Module, call: Inputs, tokens: int, case: str, repeats: int, device: str
) -> Row:
    """One case on one denoiser at one size."""
    middle = [s.name for s in dx.summary(model).denoisers[0][3] if s.kind == "joint"][
        len(list(model.children())) // 2
    ]
    settings, expected = CASES[case]
    methods = () if settings is None else (dx.SoftPAG(heads={middle: None}, scale=1.0, **settings),)
    watch = Stopwatch(device)

    def host() -> Tensor:
        return model(**call, return_dict=False)[0]

    stock, ratios = host(), []
    for _ in range(repeats):
        alone = watch(host)
        with dx.apply(model, *methods):
            ours = host()
            ratios.append(watch(host) / alone)
    same = expected == 1.0
    error = float((ours - stock).abs().max())
    ok = (error == 0.0) if same else (error > 0 and bool(ours.isfinite().all()))
    check = ("bit-equal to the host" if same else "finite and different") if ok else "FAILED"
    return Row(name, tokens, case, statistics.median(ratios), expected, error, check)


def main(arguments: list[str] | None = None) -> list[Row]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the results as JSON")
    args = parser.parse_args(arguments)
    where = machine(args.device)
    torch.manual_seed(0)
    known = models(args.device)
    cases = {
        f"{name} {side * side} {case}": (name, side, case)
        for name, (_, _, sides) in known.items()
        for side in sides
        for case in CASES
    }
    ledger = Ledger(results_file(args.out, "guidance_cost", where), where, cases)
    print(
        f"{'model':6} {'tokens':>6}  {'case':20} {'time / host':>11} {'expected':>8} {'max |diff|':>10}  "
        "check"
    )
    built: tuple[str, nn.Module] | None = None
    for label, (name, side, case) in cases.items():
        build, inputs, _ = known[name]
        with ledger.case(label):
            if built is None or built[0] != name:
                built = None  # frees the other one first
                built = name, build()
            row = measure(name, built[1], inputs(side), side * side, case, args.repeats, args.device)
            ledger.add(row)
            print(
                f"{row.model:6} {row.tokens:6}  {row.case:20} {row.ratio:11.2f} {row.expected:8.1f} "
                f"{row.error:10.2e}  {row.check}",
                flush=True,
            )
    return ledger.finish(lambda row: row.check != "FAILED")


if __name__ == "__main__":
    main()
