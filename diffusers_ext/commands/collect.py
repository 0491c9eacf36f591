"""Run `diffusers-ext collect`: make the pairs of noise that `train npnet` learns from."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from . import options as opt


def collect(
    model: opt.Model = "shapes-sd3",
    prompts: Annotated[
        str | None,
        typer.Option(
            "--prompts",
            metavar="PATH",
            help="A text file, one prompt a line. By default captions of shapes world that models learn on.",
        ),
    ] = None,
    n: Annotated[int, typer.Option("--n", help="Number of prompts. Of a file, at most its lines.")] = 2000,
    seed: Annotated[str, typer.Option("--seed", metavar="INTEGER", help="Fixes prompts and noise.")] = "0",
    steps: Annotated[
        int, typer.Option("--steps", help="Number of steps of the schedule whose first step is undone.")
    ] = 10,
    w_denoise: Annotated[float, typer.Option("--w-denoise", help="Guidance scale of that step.")] = 5.5,
    w_invert: Annotated[float, typer.Option("--w-invert", help="Guidance scale of the way back.")] = 1.0,
    reward: Annotated[
        str | None,
        typer.Option(
            "--reward", help="A reward by its name or folder. Only pairs that it finds better are kept."
        ),
    ] = None,
    margin: Annotated[float, typer.Option("--margin", help="By how much they must be better.")] = 0.0,
    shard: Annotated[
        str, typer.Option("--shard", metavar="I/N", help="Make every N-th pair, from number I on.")
    ] = "0/1",
    batch: opt.Batch = 8,
    device: opt.Device = None,
    threads: opt.Threads = None,
    out: opt.Out = "out/pairs",
) -> None:
    """Make pairs of noise and better noise; the same command goes on where it stopped."""
    from ..models.checkpoint import Checkpoint
    from ..outputs.files import output_folder
    from ..rewards.names import named
    from ..sampling.call import seed_of
    from ..sampling.npnet.collect import Collection, rows
    from ..sampling.npnet.collect import collect as run
    from . import making

    settings = Collection(
        steps=steps, w_denoise=w_denoise, w_invert=w_invert, margin=margin, seed=seed_of(seed)
    )
    part = opt.shard_of(shard)
    checkpoint, texts = Checkpoint.resolve(model), _prompts(prompts, n, settings.seed)
    scorer = None if reward is None else named(reward, device)
    folder = output_folder(out)
    pipe = checkpoint.load(device, threads=threads)
    mine = range(part[0], len(texts), part[1])
    with making.progress(len(mine), "pair") as progress:
        progress.skip(sum(row["index"] in mine for row in rows(folder)))

        def on_batch(tried: Sequence[object]) -> None:
            progress.tick(len(tried))
            progress.begin(0)

        run(
            pipe,
            texts,
            folder,
            settings,
            reward=scorer,
            shard=part,
            batch=batch,
            on_batch=on_batch,
            model=model,
            **checkpoint.call,
        )
    found = rows(folder)
    typer.echo(f"kept {sum(row['kept'] for row in found)} of {len(found)} pairs in {folder}")


def _prompts(file: str | None, n: int, seed: int) -> list[str]:
    """Return the lines of a file, or captions of the stream that models of shapes world learn on."""
    if n < 1:
        raise ValueError(f"--n is the number of prompts, 1 or more, got {n}; 2000 is usual")
    if file is not None:
        lines = Path(file).expanduser().read_text(encoding="utf-8-sig").splitlines()
        found = [line.strip() for line in lines if line.strip()][:n]
        if not found:
            raise ValueError(f"--prompts takes a file with one prompt a line, {file!r} has none; write some")
        return found
    import numpy as np

    from ..zoo.world.scenes import sample_spec

    return [sample_spec(np.random.default_rng((seed, i))).caption for i in range(n)]
