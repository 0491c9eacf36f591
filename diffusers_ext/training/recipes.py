"""Define the recipe of each training run: every number that a run depends on, apart from its seed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Schedule:
    """Give the learning rate as a factor over a run, in samples: warm-up, flat, linear decay to 0 at `total`.

    `get_wsd_schedule` of transformers differs: it begins at 0, and this one above 0.
    """

    warmup: int
    decay_from: int
    total: int

    def __post_init__(self) -> None:
        if not 0 <= self.warmup <= self.decay_from < self.total:
            raise ValueError(
                "a schedule needs 0 <= warmup <= decay_from < total samples, "
                f"got {self.warmup}, {self.decay_from}, {self.total}; raise the total"
            )

    def factor(self, samples: int) -> float:
        """Return the share of the full learning rate after this many samples."""
        if samples < self.warmup:
            return (samples + 1) / (self.warmup + 1)
        return min(1.0, max(0.0, (self.total - samples) / (self.total - self.decay_from)))

    @classmethod
    def plan(cls, total: int, warmup: int, decay: float) -> Schedule:
        """Return the schedule whose decay takes the last `decay` share of `total` samples."""
        return cls(min(warmup, total // 10), int(total * (1 - decay)), total)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A recipe holds the settings that every run has; models add their own."""

    samples: int
    batch: int = 64
    lr: float = 1e-3  # AdamW: embeddings, norms, biases and text encoders
    muon_lr: float = 0.0  # Muon for the hidden matrices; 0: AdamW for these too
    warmup: int = 12_800  # samples
    decay: float = 0.4  # share of the run
    ema: float = 0.999
    clip: float = 1.0
    weight_decay: float = 0.01
    log_every: int = 50  # steps
    evaluate_every: int = 60_000  # samples
    evaluate_prompts: int = 20  # per task


@dataclass(frozen=True, slots=True, kw_only=True)
class VAEConfig(Recipe):
    """This is the recipe of shapes-vae."""

    samples: int = 36_000
    batch: int = 32
    lr: float = 1.5e-3
    warmup: int = 2_000
    decay: float = 0.7
    ema: float = 0.99
    log_every: int = 20
    l1: float = 0.25
    kl: float = 5e-5
    probe: int = 400  # pictures for the statistics of the latents and the final report


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamRecipe(Recipe):
    """This recipe draws from the stream of latents."""

    drop: float = 0.1  # share of captions emptied, for classifier-free guidance
    first: int = 16_000  # pictures drawn before the first step
    reuse: int = 5  # samples used for each picture drawn later
    foreground: float = 4.0  # extra loss weight of latent pixels under an object at the start
    foreground_until: float = 0.4  # share of the run after which the extra weight is gone


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowRecipe(StreamRecipe):
    """This recipe of flow matching has two lengths of text: the zoo's 24 tokens and the stock pipeline's."""

    t_mean: float = 0.4  # logit-normal mean: above 0 favours high noise, at which the layout is decided
    long_text: float = 0.0  # share of batches at the stock length
    long_text_late: float = 0.0  # the same in the last part of the run
    long_text_from: float = 0.85  # share of the run at which that part begins


@dataclass(frozen=True, slots=True, kw_only=True)
class SD3Config(FlowRecipe):
    """This is the recipe of shapes-sd3."""

    samples: int = 1_240_000
    muon_lr: float = 2e-3  # at equal samples its loss is a sixth lower than AdamW's
    long_text: float = 0.03  # at 256 T5 tokens
    long_text_late: float = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class SD3FineConfig(FlowRecipe):
    """This is the recipe of shapes-sd3-256."""

    samples: int = 100_000
    batch: int = 32
    muon_lr: float = 2e-3
    warmup: int = 3_200
    ema: float = 0.998
    foreground: float = 0.0  # shapes-sd3, its start, draws no blanks
    taught: float = 1.0  # share of the teacher's velocity in the target at the start; none is left at the end
    long_text: float = 0.03  # at 256 T5 tokens
    evaluate_every: int = 16_000


@dataclass(frozen=True, slots=True, kw_only=True)
class SDConfig(StreamRecipe):
    """This is the recipe of shapes-sd."""

    samples: int = 270_000
    muon_lr: float = 2e-3
    snr: float = 5.0  # signal-to-noise ratio above which the loss weighs less


@dataclass(frozen=True, slots=True, kw_only=True)
class TurboConfig(Recipe):
    """This is the recipe of shapes-sd-turbo."""

    samples: int = 80_000
    batch: int = 32
    lr: float = 2e-4
    warmup: int = 1_600
    first: int = 4_000  # pairs of the teacher made before the first step
    reuse: int = 8  # times that a pair made later is used
    paired: float = 0.25  # share of a batch for which the teacher's picture is known
    regression: float = 0.25  # weight of the distance to that picture
    matching: float = 1.0  # weight of the pull towards pictures that the teacher finds likely
    margin: float = 0.02  # share of the timesteps at either end on which student and teacher are not compared
    snr: float = 5.0  # as in shapes-sd, for the critic
    evaluate_every: int = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class CLIPConfig(Recipe):
    """This is the recipe of shapes-clip."""

    samples: int = 400_000
    batch: int = 128  # pictures: 64 pairs one mistake apart
    muon_lr: float = 2e-3
    decay: float = 0.5
    reuse: int = 4  # times that a picture is used
    negatives: int = 3  # further wrong captions for each picture
    decoded: float = 0.2  # share of the pictures that went through the autoencoder
    latent_noise: float = 0.3  # largest spread added to their latents, which have spread 1
    noise: float = 0.1  # largest spread added to pixels in -1..1
    evaluate_every: int = 25_000  # samples
    evaluate_prompts: int = 100  # pairs per kind of mistake


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseAwareConfig(Recipe):
    """This is the recipe of one level of shapes-clip-noise-aware."""

    samples: int = 15_360  # six times each picture
    lr: float = 6e-4
    warmup: int = 640
    decay: float = 0.7
    ema: float = 0.98
    log_every: int = 10
    steps: tuple[int, ...] = (6, 4, 3)  # of the teacher's call, from the least noise to the most
    prompts: int = 320  # 8 pictures each
    blocks: int = 1  # the last ones of the picture half, whose attention is trained


@dataclass(frozen=True, slots=True, kw_only=True)
class WanVAEConfig(VAEConfig):
    """This is the recipe of shapes-wan-vae."""

    samples: int = 80_000
    lr: float = 2e-3
    foreground: float = 3.0  # extra loss weight of pixels under an object
    stills_until: float = 0.75  # share of the run on single frames
    short_until: float = 0.96  # share of the run after which clips have their full length


@dataclass(frozen=True, slots=True, kw_only=True)
class WanConfig(FlowRecipe):
    """This is the recipe of shapes-wan."""

    samples: int = 600_000
    muon_lr: float = 2e-3
    stills: int = 256  # single frames beside each batch of clips; 0 for none
    stills_reuse: int = 8
    first: int = 12_000
    text_steps: int = 400  # steps on captions alone, until the text encoder reads as shapes-clip does
    long_text_late: float = 0.15  # at 512 tokens, nearly all of them zeros
    evaluate_every: int = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class NPNetConfig(Recipe):
    """This is the recipe of an NPNet; its paper has 1e-4, no decay and 30 rounds of 100,000 pairs."""

    samples: int = 600_000
    evaluate_every: int = 20_000
