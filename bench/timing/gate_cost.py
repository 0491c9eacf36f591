"""Measure what the gate of a search costs if no candidate is dropped: a call with it and one without.

    python -m bench.timing.gate_cost

Both calls are timed in turn (A B A B ...), so that the ratio survives a busy machine. The models are those of
shapes world, whose denoisers are small: on larger ones the gate costs less. Beside the time stands the check
that both make the same latents, bit for bit.
"""

import statistics
from functools import partial

import torch

import diffusers_ext as dx
from diffusers_ext.sampling.estimate import StepWatch
from diffusers_ext.sampling.gate import Gate
from diffusers_ext.sampling.host_call import HostCall

from ..ledger import Row
from ..runner import Latest, options, run
from .stopwatch import Stopwatch, in_turns

CANDIDATES = 8
PROMPTS = {"shapes-wan": "a red circle moves left"}
LINE = "{model:16} {candidates} candidates, {steps} steps: {ratio:.3f} of the time without the gate, {check}"


@torch.no_grad()
def measure(pipe: object, name: str, device: str, repeats: int) -> list[Row]:
    """Return the row of one model; `ratio` is the time with the gate over the time without."""
    prompt = PROMPTS.get(name, "a red circle and a blue star")
    plain, gated = (HostCall(pipe, prompt, torch.Generator().manual_seed(0)) for _ in range(2))
    starts = plain.draw(CANDIDATES)
    StepWatch(gated.pipe.scheduler)
    gate = Gate(CANDIDATES)
    without = plain.run(starts)
    with gate.on(gated.pipe):
        same = torch.equal(gated.run(starts), without)
    calls = partial(plain.run, starts), partial(_with_gate, gated, starts)
    for call in calls:
        call()
    times = in_turns(Stopwatch(device), *calls, repeats=repeats)
    ratio = statistics.median(b / a for a, b in zip(*times, strict=True))
    return [
        {
            "model": name,
            "candidates": CANDIDATES,
            "steps": plain.steps(),
            "evaluations": gate.evaluations,
            "ratio": ratio,
            "check": "the same bits" if same else "FAILED",
        }
    ]


def _with_gate(call: HostCall, starts: object) -> object:
    gate = Gate(CANDIDATES)
    with gate.on(call.pipe):
        return call.run(starts, lambda step, latents: None)


def main(arguments: list[str] | None = None) -> list[Row]:
    parser = options(__doc__)
    parser.add_argument("--repeats", type=int, default=11)
    args = parser.parse_args(arguments)
    built = Latest(lambda name: dx.load(name).to(args.device))
    names = ("shapes-sd3", "shapes-sd", "shapes-wan")

    def case(name: str) -> list[Row]:
        return measure(built(name), name, args.device, args.repeats)

    return run("gate_cost", {name: partial(case, name) for name in names}, args, LINE)


if __name__ == "__main__":
    main()
