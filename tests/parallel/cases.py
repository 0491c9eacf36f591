"""Compute what the processes of test_parallel.py need; they import nothing else."""

import os
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

import diffusers_ext as dx
from diffusers_ext.parallel import patch_parallel
from tests.tiny_models import flux

RANKS = 3
LAYERS = dict(num_layers=1, num_single_layers=1)


@dataclass(frozen=True)
class Case:
    """A call of a tiny FLUX on some ranks; `rows x width` tokens."""

    ranks: int
    rows: int
    width: int
    radius: int
    text_merge: str = "exact"
    batch: int = 1
    train_tokens: int | None = None

    @property
    def clear(self):
        return dx.CLEAR(radius=self.radius, train_tokens=self.train_tokens, backend="reference")

    def inputs(self):
        return flux.inputs(self.batch, seed=self.rows, height=self.rows, width=self.width, text=5)


CASES = {
    "even": Case(2, 6, 5, 2, batch=2),
    "uneven, one row of halo each side": Case(3, 7, 4, 2),
    "the halo is the smallest strip": Case(3, 7, 4, 3),
    "the halo is longer than a strip": Case(3, 7, 4, 5),
    "one row each": Case(3, 3, 9, 2),
    "no halo": Case(2, 5, 3, 1),
    "the disk covers the grid": Case(2, 5, 3, 20),
    "several blocks of queries": Case(2, 23, 17, 4),
    "one rank": Case(1, 5, 4, 2),
    "beyond the length of training": Case(2, 6, 5, 3, train_tokens=20),
    "mean": Case(2, 7, 4, 3, text_merge="mean"),
    "mean of three": Case(3, 8, 3, 2, text_merge="mean"),
}
PIPE = dict(height=36, width=20, num_inference_steps=2, max_sequence_length=8, output_type="latent")


def picture(pipe, seed=0):
    """Latents `[1, N, C]` of one prompt."""
    return pipe("a cat", generator=torch.Generator().manual_seed(seed), **PIPE).images


def failure(call):
    """Return the class and message of the error of a call, or `None`."""
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


@torch.no_grad()
def work(rank, folder):
    """Run one process: all cases, then a complete pipeline, then what must fail; answers go to a file."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meet",
        rank=rank,
        world_size=RANKS,
        timeout=timedelta(minutes=10),
    )
    groups = {n: dist.new_group(range(RANKS - n, RANKS)) for n in range(1, RANKS)} | {RANKS: None}
    model, inputs = flux.transformer(**LAYERS), flux.inputs(height=6)
    found = {"plain": model(**inputs)[0]}
    for name, case in CASES.items():
        if rank >= RANKS - case.ranks:
            with patch_parallel(model, case.clear, groups[case.ranks], case.text_merge) as session:
                found[name] = model(**case.inputs())[0]
            found[f"{name}: report"] = session.report().to_dict()["sites"]
    clear = dx.CLEAR(radius=2, backend="reference")
    with patch_parallel(model, clear):
        found["not interpreted"] = model(**inputs)[0]
        os.environ["TRITON_INTERPRET"] = "1"  # the operator would take Triton, also on CPU tensors
        found["interpreted"] = model(**inputs)[0]
        del os.environ["TRITON_INTERPRET"]
        found["too few rows"] = failure(lambda: model(**flux.inputs(height=2)))
        other = flux.inputs(seed=rank, height=6)
        found["other noise"] = failure(lambda: model(**other))
        with torch.enable_grad():
            found["gradients"] = failure(lambda: model(**inputs))
        residuals = [torch.zeros(1, 36, 64)]
        found["residuals"] = failure(lambda: model(**inputs, controlnet_block_samples=residuals))
    found["plain again"] = model(**inputs)[0]
    pipe = flux.pipeline(**LAYERS)
    with patch_parallel(pipe, clear):
        found["pipeline"] = picture(pipe)
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()
