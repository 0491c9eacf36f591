"""Share what objectives of pipelines need: trained parts, compiled blocks, scores, the data stream."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..average import restore
from ..checkpoint import generator
from ..data.latents import Batch, LatentStream, drop_captions, object_weight
from ..progress import score
from ..recipes import FlowRecipe, Recipe, StreamRecipe
from .flow import lengthen

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, DiffusionPipeline


DENOISERS = frozenset({"transformer", "unet"})


class DiffusionObjective:
    """Train some components of a pipeline of the zoo.

    A subclass names what it trains and gives `blocks`, `inputs` and `denoising_loss`.
    """

    name: str  # name in the zoo
    trained: tuple[str, ...]  # components of the pipeline

    def __init__(self, pipe: DiffusionPipeline, recipe: Recipe, *, seed: int, compile: bool):
        self.pipe, self.recipe, self.seed, self.compile = pipe, recipe, seed, compile
        self.pipe.set_progress_bar_config(disable=True)
        self.attention = contextlib.nullcontext

    def blocks(self) -> Iterable[torch.nn.Module]:
        """Return parts of the denoiser that are compiled one by one."""
        raise NotImplementedError

    def denoising_loss(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Return the scalar to lower, from the tensors of `inputs`."""
        raise NotImplementedError

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        parts = {part: getattr(self.pipe, part) for part in self.trained}
        return {f"{part}.{name}": p for part, model in parts.items() for name, p in model.named_parameters()}

    def hidden(self, name: str) -> bool:
        return "transformer_blocks" in name

    def prepare(self, device: torch.device) -> None:
        self.pipe.to(device)
        for part in self.trained:
            getattr(self.pipe, part).train()
        if self.compile:
            compile_blocks(self.blocks())
        if device.type == "cpu":
            self.attention = plain_attention()

    def loss(self, *inputs: torch.Tensor) -> torch.Tensor:
        with self.attention():
            return self.denoising_loss(*inputs)

    def evaluate(self, sheet: Path | None = None) -> dict[str, float]:
        return score(self.pipe, self.name, self.recipe.evaluate_prompts, sheet)


class StreamObjective(DiffusionObjective):
    """Train a pipeline to denoise the stream `seed`, encoded by `vae` into the folder `cache`.

    Components that the folder `start` holds get their weights from there, the others from the seed. A run
    that goes on names in `given` the components that its own start held. A subclass names its recipe and the
    function that builds the untrained pipeline around the autoencoder. It also names the stream, unless that
    consists of pictures.
    """

    config: type[StreamRecipe]
    build: Callable[[AutoencoderKL], DiffusionPipeline]
    data: type[LatentStream] = LatentStream

    def __init__(
        self,
        vae: AutoencoderKL,
        cache: Path,
        recipe: StreamRecipe | None = None,
        *,
        start: Path | None = None,
        given: Collection[str] = (),
        seed: int = 0,
        compile: bool = True,
    ):
        recipe = recipe or self.config()
        torch.manual_seed(seed)
        super().__init__(type(self).build(vae), recipe, seed=seed, compile=compile)
        self.given = frozenset(given if start is None else adopt(self.pipe, start, self.trained))
        if self.given & DENOISERS:
            self.recipe = replace(recipe, foreground=0.0)  # a trained denoiser draws no blanks any more
        self.stream = self.data(vae, self.pipe.tokenizer, cache, seed, recipe.first, recipe.reuse)


class FlowObjective(StreamObjective):
    """Train a pipeline by flow matching; a subclass gives the number of tokens of short and long text."""

    recipe: FlowRecipe
    lengths: tuple[int, int]  # the zoo's call default and the default of the stock pipeline

    def inputs(self, step: int, progress: float) -> tuple[torch.Tensor, ...]:
        """Return latents, noise, sigma, weight, ids [B, 24] and the same ids at the length of this step."""
        recipe, dice, used = self.recipe, generator(self.seed, step), step * self.recipe.batch
        batch, noise, sigma, ids, lengthened = flow_inputs(self, self.stream, recipe, dice, used, progress)
        return batch.latents, noise, sigma, object_weight(batch.cover, recipe, progress), ids, lengthened


def flow_inputs(
    objective: DiffusionObjective,
    stream: LatentStream,
    recipe: FlowRecipe,
    dice: torch.Generator,
    used: int,
    progress: float,
) -> tuple[Batch, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Draw what a step of flow matching needs: a batch, noise, sigma [B], ids [B, 24] and ids at one of the
    two `lengths` that the objective has.

    Before this step the run has used `used` samples and finished the share `progress`.
    """
    batch = stream.batch(used, recipe.batch, dice)
    noise = torch.randn(batch.latents.shape, generator=dice)
    sigma = torch.sigmoid(torch.randn(recipe.batch, generator=dice) + recipe.t_mean)
    tokenizer = objective.pipe.tokenizer
    ids = drop_captions(batch.ids, recipe.drop, tokenizer, dice)
    share = recipe.long_text_late if progress >= recipe.long_text_from else recipe.long_text
    long = torch.rand((), generator=dice).item() < share
    return batch, noise, sigma, ids, lengthen(ids, objective.lengths[long], tokenizer.pad_token_id)


def adopt(pipe: DiffusionPipeline, folder: Path, parts: Iterable[str]) -> set[str]:
    """Load the weights of the parts that a folder holds, and return the names of these parts.

    The folder is a saved pipeline, or just a text encoder. Raises `FileNotFoundError` if it holds none of the
    parts.
    """
    parts = tuple(parts)
    found = [part for part in parts if (folder / part / "config.json").is_file()]
    if not found:
        raise FileNotFoundError(
            f"a run starts from a folder with at least one of {', '.join(parts)}, {folder} has none; "
            "give the folder of a saved pipeline"
        )
    for part in found:
        module = getattr(pipe, part)
        saved = type(module).from_pretrained(folder / part, torch_dtype=torch.float32)
        restore(dict(module.named_parameters()), dict(saved.named_parameters()))
    return set(found)


def compile_blocks(blocks: Iterable[torch.nn.Module]) -> None:
    """Compile blocks in place; training, evaluation and each length of text have a graph of their own."""
    torch._dynamo.config.recompile_limit = 32
    for block in blocks:
        block.compile(dynamic=False)


def plain_attention() -> partial:
    """Compute attention as two matrix products in this context.

    On a CPU the backward pass of the fused kernel takes two fifths of a step.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel

    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)
    return partial(sdpa_kernel, SDPBackend.MATH)
