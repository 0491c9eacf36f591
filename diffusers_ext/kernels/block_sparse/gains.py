"""When a plan pays: the time of attention over its blocks, against dense attention on the same device.

The time is a sum over blocks. A FULL block takes `full` times as long as its pairs in dense attention, and a
PARTIAL one `partial` times as long as a FULL one. Bringing tokens into the order of the plan comes on top.
`backend="auto"`, `dx.plan` and `doctor` take their numbers from here, and from nowhere else.
"""

from dataclasses import dataclass

import torch

from ..masks.rule import Kind
from ..plan.plan import PlanSpec, PlanStats

WORTH_COMPILING = 60.0  # seconds that compiled code must save; compiling takes about ten for a plan
CPU_RATE = 1e11  # operations of dense attention that a core does in a second
MARGIN = 1.1  # the least speed-up of attention that is worth a plan; below it, launches and lists may eat it


@dataclass(frozen=True, slots=True)
class Costs:
    """The costs of a back-end on a device, over those of dense attention there.

    `full` is the time of a FULL block over that of its pairs in dense attention. `none`, `disk`, `box` and
    `band` are the times of PARTIAL blocks over those of FULL ones, by rule. `gathers` is the number of keys
    of dense attention that take as long as bringing a token into plan order and back. `source` says how the
    numbers are known.
    """

    full: float
    none: float
    disk: float
    box: float
    band: float
    gathers: float
    source: str

    def partial(self, kind: Kind) -> float:
        """Return the time of a PARTIAL block over that of a FULL one; unknown rules take the most."""
        return getattr(self, kind.name.lower(), max(self.none, self.disk, self.box, self.band))


# Names of devices, and the class whose costs they have: those of a GPU follow from its compute capability.
DEVICES = {"cpu": "cpu", "a100": "8.0", "h100": "9.0", "h200": "9.0", "b200": "10.0"}
TITLES = {"cpu": "a CPU core", "8.0": "A100", "9.0": "H100/H200", "10.0": "B200"}
USUAL = "9.0"  # the class that blocks are chosen for, and that forecasts are made for without a GPU

# By back-end and class of devices; of Triton's kernel, also for key blocks below 128 tokens ("halves") and
# where it looks coordinates up ("tables"). No GPU has been timed. "model" is from the instructions of the
# compiled kernels (bench/results/compiled.json). On 9.0 a tile of 64 keys takes 1140 cycles and 2 for each
# instruction, and checks take 3.2 for each. Dense attention is cuDNN's, with 631 TFLOP/s on FLUX.1 at 1024 px
# (published). On 8.0 instructions alone count, and on 10.0 dense attention is taken to be twice as fast.
# Heads of 64 and irregular plans (kernels.plan.form) have no rows of their own. A PARTIAL block of both takes
# up to 2.5 times its pairs. That changes no decision for a preset: SD3 at 1024 px takes 0.6 of the time of
# dense attention, and all up to 0.9 is a gain.
# Gathers are those of four tensors at two thirds of the memory's speed. CPU rows are fitted to the times of
# one core (bench/results/growth-cpu-x86_64.json), where copies do not count: bench.timing.block_costs.
COSTS = {
    ("triton", "8.0"): Costs(1.19, 1.12, 1.26, 1.29, 1.19, 700, "model"),
    ("triton tables", "8.0"): Costs(1.66, 1.2, 1.5, 2.14, 1.25, 700, "model"),
    ("triton", "9.0"): Costs(1.22, 1.21, 1.22, 1.22, 1.29, 1000, "model"),
    ("triton halves", "9.0"): Costs(1.37, 1.18, 1.28, 1.28, 1.28, 1000, "model"),
    ("triton tables", "9.0"): Costs(1.43, 1.2, 1.74, 2.09, 1.46, 1000, "model"),
    ("triton", "10.0"): Costs(1.96, 1.33, 1.21, 1.17, 1.26, 1000, "model"),
    ("triton halves", "10.0"): Costs(2.2, 1.3, 1.3, 1.3, 1.3, 1000, "model"),
    ("triton tables", "10.0"): Costs(2.3, 1.3, 1.94, 2.24, 1.45, 1000, "model"),
    ("reference", "cpu"): Costs(3.6, 1.0, 1.66, 2.45, 1.0, 0, "as timed on a CPU"),
    ("flex", "cpu"): Costs(2.29, 1.0, 2.01, 4.8, 3.89, 0, "as timed on a CPU"),
}


def device_class(device: torch.device | str | None = None) -> str:
    """Return the class of a device, of a name in `DEVICES`, or of this machine's GPU for `None`.

    Without a GPU, `None` is `USUAL`. Raises `ValueError` for other names.
    """
    if device is None:
        return device_class("cuda") if torch.cuda.is_available() else USUAL
    if (name := str(device).lower()) in DEVICES:
        return DEVICES[name]
    try:
        found = torch.device(name)
    except RuntimeError:
        found = None
    if found is None or (found.type == "cuda" and not torch.cuda.is_available()):
        missing = "there is none here" if found else "it is none of them"
        raise ValueError(
            f"A device is one of {', '.join(DEVICES)}, or a GPU of this machine, got {name!r}, and "
            f"{missing}; leave it out for {TITLES[USUAL]}."
        )
    if found.type != "cuda":
        return "cpu"
    major, _ = torch.cuda.get_device_capability(found)
    return {9: "9.0", 10: "10.0", 11: "10.0"}.get(major, "8.0")


def backend_on(device: str) -> str:
    """Return the fastest back-end of a class of devices."""
    return "reference" if device == "cpu" else "triton"


def costs(backend: str, device: str, spec: PlanSpec | None = None) -> Costs:
    """Return the costs of a back-end on a class of devices, for a plan or for most of them.

    What is untimed on a device has the costs of a CPU.
    """
    if backend != "triton":
        return COSTS.get((backend, device), COSTS[backend, "cpu"])
    device = USUAL if device == "cpu" else device  # in the interpreter
    form = "" if spec is None or (spec.computed and spec.block_k >= 128) else " halves"
    form = " tables" if spec is not None and not spec.computed else form
    return COSTS.get((backend + form, device), COSTS[backend, device])


def share_of_dense(spec: PlanSpec, backend: str, device: str, stats: PlanStats | None = None) -> float:
    """Predict the time of attention from the tokens of the grid, over that of dense attention.

    `stats` are estimates, if there are any in place of the counts of the plan.
    """
    rates, stats = costs(backend, device, spec), stats or spec.stats
    gathers = 0 if spec.in_raster else rates.gathers / stats.tokens
    return rates.full * stats.effective_cost(rates.partial(spec.kind)) + gathers


def no_gain(spec: PlanSpec, backend: str, device: str) -> str | None:
    """Return why a back-end is expected to gain less than `MARGIN` over dense attention, or `None`."""
    share, stats = share_of_dense(spec, backend, device), spec.stats
    if share * MARGIN <= 1:
        return None
    return (
        f"no gain expected, the plan visits {stats.cost:.3f} of the blocks of dense attention, "
        f"{1 - stats.full_share:.0%} of them with checks, which takes {backend} {share:.2f} times as long "
        f"({costs(backend, device, spec).source})"
    )


def saved_by_compiling(spec: PlanSpec, heads: int, head_dim: int, calls: int) -> float:
    """Predict the seconds that FlexAttention saves on a CPU in `calls` calls, without those for compiling."""
    pairs = spec.grid_tokens * (spec.grid_tokens + spec.text)
    dense = 4 * pairs * heads * head_dim * calls / (CPU_RATE * torch.get_num_threads())
    before = min(share_of_dense(spec, "reference", "cpu"), 1.0)
    return dense * (before - share_of_dense(spec, "flex", "cpu"))


def limits(backend: str, device: str) -> str:
    """Return in words up to which share of the blocks a back-end is expected to gain, for `doctor`."""
    rates = costs(backend, device)
    most = 1 / (MARGIN * rates.full)
    hardest = max(rates.disk, rates.box, rates.band)
    return (
        f"gains up to {most:.2f} of the blocks, {most / hardest:.2f} where all need checks ({rates.source})"
    )
