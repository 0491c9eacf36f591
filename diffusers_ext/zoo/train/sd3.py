"""Trains shapes-sd3: transformer and text encoders together, on latents of the shapes world."""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..models import build_sd3
from .config import Schedule, SD3Config
from .evaluate import score
from .flow import TRAINED, flow_loss, lengthen, restore, trained_parameters
from .latents import LatentStream
from .loop import Average, Log, StopRequest, cpu_precision, generator, load_checkpoint, save_atomically

if TYPE_CHECKING:
    import torch
    from diffusers import AutoencoderKL, StableDiffusion3Pipeline

SHORT_TEXT, LONG_TEXT = 24, 256  # T5 tokens: our call default and the default of the stock pipeline


def train_sd3(
    out: Path,
    vae: AutoencoderKL,
    config: SD3Config | None = None,
    *,
    start: Path | None = None,
    minutes: float | None = None,
    samples: int | None = None,
    decay_now: bool = False,
    resume: bool = True,
    seed: int = 0,
    compile: bool = True,
    checkpoint_minutes: float = 5.0,
) -> bool:
    """Train into `out` (checkpoint.pt, log.jsonl, cache/); True when the planned samples are reached.

    Without a checkpoint the weights come from the pipeline folder `start`, or at random when that is None.
    `samples` sets the planned length anew, also on resume; `decay_now` begins the decay at once.
    """
    import torch
    from accelerate import Accelerator
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from tqdm import tqdm

    config = config or SD3Config()
    config = replace(config, samples=samples or config.samples)
    accelerator = Accelerator(mixed_precision=cpu_precision())
    torch.manual_seed(seed)
    pipe = build_sd3(vae)
    if start is not None:
        adopt(pipe, start)
    pipe.to(accelerator.device)
    pipe.set_progress_bar_config(disable=True)
    parameters = trained_parameters(pipe)
    optimizers = build_optimizers(parameters, config)
    average = Average(parameters.values(), config.ema)
    schedule = Schedule.plan(config.samples, config.warmup, config.decay)
    log, path, step, spent = Log(out / "log.jsonl"), out / "checkpoint.pt", 0, 0.0
    if resume and path.exists():
        state = load_checkpoint(path)
        restore(parameters, state["model"])
        for optimizer, kept in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
        average.mean, step, spent = state["average"], state["step"], state["seconds"]
        schedule = Schedule(*state["schedule"])
        if samples is not None and not decay_now:
            schedule = Schedule.plan(samples, config.warmup, config.decay)
    if decay_now:
        schedule = Schedule(0, step * config.batch, config.samples)
    stream = LatentStream(pipe.vae, pipe.tokenizer, out / "cache", seed, config.first, config.reuse)
    if compile:
        torch._dynamo.config.recompile_limit = (
            32  # two text lengths, train and eval, and the last block differs
        )
        for block in pipe.transformer.transformer_blocks:
            block.compile(dynamic=False)
    attention = contextlib.nullcontext
    if accelerator.device.type == "cpu":
        # The backward pass of fused attention takes two fifths of a CPU step; plain products do not.
        torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)
        attention = partial(sdpa_kernel, SDPBackend.MATH)

    def save() -> None:
        state = {"model": {k: p.detach() for k, p in parameters.items()}, "average": average.mean}
        state |= {"optimizers": [o.state_dict() for o in optimizers], "step": step, "seconds": spent}
        plan = [schedule.warmup, schedule.decay_from, schedule.total]
        save_atomically({**state, "schedule": plan, "seed": seed}, path)

    for part in TRAINED:
        getattr(pipe, part).train()
    began = saved = ticked = time.perf_counter()
    logged = (step, began)
    with (
        StopRequest() as stop,
        tqdm(total=schedule.total, initial=step * config.batch, mininterval=10) as bar,
    ):
        while step * config.batch < schedule.total:
            used = step * config.batch
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = group["base_lr"] * schedule.factor(used)
            inputs = make_inputs(
                stream, config, used, used / schedule.total, generator(seed, step), pipe.tokenizer
            )
            with accelerator.autocast(), attention():
                loss = flow_loss(pipe, *(x.to(accelerator.device) for x in inputs))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters.values(), config.clip)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
            average.update(step)
            step += 1
            bar.update(config.batch)
            now = time.perf_counter()
            spent, ticked = spent + now - ticked, now
            if step % config.log_every == 0 or step <= 3:
                rate = (step - logged[0]) * config.batch / (now - logged[1])
                logged = (step, now)
                log.write(
                    step=step,
                    samples=step * config.batch,
                    loss=loss.item(),
                    lr=optimizers[0].param_groups[0]["lr"],
                    samples_per_s=rate,
                    seconds=spent,
                )
            over = minutes is not None and now - began > 60 * minutes
            done = step * config.batch >= schedule.total
            if stop.asked or over or done or now - saved > 60 * checkpoint_minutes:
                save()
                saved = time.perf_counter()
            if used // config.evaluate_every < step * config.batch // config.evaluate_every:
                average.swap()
                with accelerator.autocast():
                    exact = score(pipe, config.evaluate_prompts)
                average.swap()
                log.write(step=step, samples=step * config.batch, seconds=spent, exact=exact)
            if (stop.asked or over) and not done:
                return False
    return True


def make_inputs(
    stream: LatentStream,
    config: SD3Config,
    used: int,
    progress: float,
    generator: torch.Generator,
    tokenizer: object,
) -> tuple[torch.Tensor, ...]:
    """Latents, noise, sigma, weight, CLIP ids and T5 ids of one step, decided by the generator alone."""
    import torch

    batch, size = stream.batch(used, config.batch, generator), config.batch
    noise = torch.randn(batch.latents.shape, generator=generator)
    sigma = torch.sigmoid(torch.randn(size, generator=generator) + config.t_mean)
    empty = torch.full_like(batch.ids, tokenizer.pad_token_id)
    empty[:, 0] = tokenizer.bos_token_id
    ids = torch.where(torch.rand(size, 1, generator=generator) < config.drop, empty, batch.ids)
    # A small object weighs little in the mean over pixels, and blank pictures result. The extra weight cures
    # that but biases the minimiser wherever an object may or may not be (one too many is drawn), so it fades
    # out early and most of the run is unweighted.
    extra = config.foreground * max(0.0, 1 - progress / config.foreground_until)
    weight = 1 + extra * batch.cover
    weight = weight / weight.mean()
    share = config.long_text_late if progress >= config.long_text_from else config.long_text
    long = torch.rand((), generator=generator).item() < share
    t5_ids = lengthen(ids, LONG_TEXT if long else SHORT_TEXT, tokenizer.pad_token_id)
    return batch.latents, noise, sigma, weight, ids, t5_ids


def build_optimizers(
    parameters: dict[str, torch.nn.Parameter], config: SD3Config
) -> list[torch.optim.Optimizer]:
    """AdamW, and Muon for the hidden matrices of the transformer where the recipe asks for it."""
    import torch

    hidden = {
        k for k, p in parameters.items() if config.muon_lr and "transformer_blocks" in k and p.ndim == 2
    }
    rest = [p for k, p in parameters.items() if k not in hidden]
    decay = config.weight_decay
    optimizers = [torch.optim.AdamW(rest, lr=config.lr, betas=(0.9, 0.99), weight_decay=decay, fused=True)]
    if hidden:
        matrices = [parameters[k] for k in parameters if k in hidden]
        muon = torch.optim.Muon(
            matrices, lr=config.muon_lr, weight_decay=decay, adjust_lr_fn="match_rms_adamw"
        )
        optimizers.append(muon)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["base_lr"] = group["lr"]
    return optimizers


def adopt(pipe: StableDiffusion3Pipeline, folder: Path) -> None:
    """Take over the trained parts of a saved pipeline."""
    from diffusers import StableDiffusion3Pipeline

    saved = StableDiffusion3Pipeline.from_pretrained(folder)
    restore(trained_parameters(pipe), {k: p.detach().float() for k, p in trained_parameters(saved).items()})
