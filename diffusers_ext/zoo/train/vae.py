"""Trains shapes-vae: squared and absolute error plus a whisper of KL, on pictures drawn when needed."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..detect import verify
from ..models import build_vae, normalise
from ..render import training_sample
from .config import Schedule, VAEConfig
from .loop import Average, Log, StopRequest, cpu_precision, generator, load_checkpoint, save_atomically

if TYPE_CHECKING:
    import torch
    from diffusers import AutoencoderKL

PROBE_SEED = 1_000_001  # pictures that no training run draws


def train_vae(
    out: Path,
    config: VAEConfig | None = None,
    *,
    minutes: float | None = None,
    resume: bool = True,
    seed: int = 0,
    checkpoint_minutes: float = 2.0,
) -> bool:
    """Train into `out`: checkpoint.pt, log.jsonl and, once complete, the folder `vae`. True when complete."""
    import torch
    from accelerate import Accelerator
    from tqdm import tqdm

    config = config or VAEConfig()
    accelerator = Accelerator(mixed_precision=cpu_precision())
    torch.manual_seed(seed)
    vae = build_vae().to(accelerator.device)
    optimizer = torch.optim.AdamW(
        vae.parameters(), lr=config.lr, betas=(0.9, 0.99), weight_decay=0.01, fused=True
    )
    average = Average(vae.parameters(), config.ema)
    schedule = Schedule.plan(config.samples, config.warmup, config.decay)
    log, path, step, spent = Log(out / "log.jsonl"), out / "checkpoint.pt", 0, 0.0
    if resume and path.exists():
        state = load_checkpoint(path)
        vae.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        average.mean, step, spent = state["average"], state["step"], state["seconds"]

    # Not compiled: on a CPU the compiled objective was slower and did not learn.
    def loss_of(images: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        posterior = vae.encode(images).latent_dist
        seen = vae.decode(posterior.mean + posterior.std * noise).sample.float()
        error = seen - images
        kl = (
            0.5
            * (posterior.mean.float().square() + posterior.var.float() - 1 - posterior.logvar.float()).mean()
        )
        return error.square().mean() + config.l1 * error.abs().mean() + config.kl * kl

    def save() -> None:
        state = {"model": vae.state_dict(), "optimizer": optimizer.state_dict(), "average": average.mean}
        save_atomically({**state, "step": step, "seconds": spent}, path)

    began = saved = ticked = time.perf_counter()
    steps = math.ceil(config.samples / config.batch)
    with StopRequest() as stop, tqdm(total=steps, initial=step, unit="step", mininterval=5) as bar:
        while step < steps:
            for group in optimizer.param_groups:
                group["lr"] = config.lr * schedule.factor(step * config.batch)
            images = pictures(seed, step * config.batch, config.batch).to(accelerator.device)
            noise = torch.randn(config.batch, 4, 16, 16, generator=generator(seed, step)).to(
                accelerator.device
            )
            with accelerator.autocast():
                loss = loss_of(images, noise)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(vae.parameters(), config.clip)
            optimizer.step()
            average.update(step)
            step += 1
            bar.update()
            now = time.perf_counter()
            spent, ticked = spent + now - ticked, now
            if step % 20 == 0 or step <= 3:
                log.write(step=step, samples=step * config.batch, loss=loss.item(), seconds=spent)
            over = minutes is not None and now - began > 60 * minutes
            if stop.asked or over or now - saved > 60 * checkpoint_minutes:
                save()
                saved = time.perf_counter()
            if stop.asked or over:
                return False
    save()
    average.swap()
    vae = vae.to("cpu")
    normalise(vae, *latent_statistics(vae, seed, config.probe))
    quality = measure(vae, config.probe)
    log.write(step=step, samples=step * config.batch, seconds=spent, **quality)
    vae.save_pretrained(out / "vae")
    return True


def pictures(seed: int, first: int, count: int) -> torch.Tensor:
    """Images float32 [count, 3, 64, 64] in -1..1 of the training stream, from index `first` on."""
    import torch

    stack = np.stack([training_sample(seed, first + i)[1] for i in range(count)])
    return torch.from_numpy(stack).permute(0, 3, 1, 2).float() / 127.5 - 1


def latent_statistics(vae: AutoencoderKL, seed: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of each latent channel [4]."""
    import torch

    with torch.no_grad():
        latents = vae.encode(pictures(seed, 0, count)).latent_dist.mean
    return latents.mean((0, 2, 3)), latents.std((0, 2, 3))


def measure(vae: AutoencoderKL, count: int) -> dict[str, float]:
    """PSNR in dB and the share of reconstructions in which the detector still finds exactly the scene."""
    import torch

    samples = [training_sample(PROBE_SEED, i) for i in range(count)]
    images = pictures(PROBE_SEED, 0, count)
    with torch.no_grad():
        seen = torch.cat([vae.decode(vae.encode(b).latent_dist.mode()).sample for b in images.split(100)])
    mse = (seen.clamp(-1, 1) - images).square().mean().item() / 4
    arrays = ((seen.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    exact = [verify(a, spec).correct for a, (spec, _, _) in zip(arrays, samples, strict=True)]
    return {"psnr_db": -10 * math.log10(mse), "exact": float(np.mean(exact))}
