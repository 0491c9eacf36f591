import json
import math
import resource
import signal
import time

import pytest

from diffusers_ext.training.checkpoint import load_checkpoint, save_atomically
from diffusers_ext.training.fit import Run, fit
from diffusers_ext.training.objectives.vae import VAEObjective
from diffusers_ext.training.recipes import VAEConfig

TINY = VAEConfig(samples=6, batch=2, warmup=0)


def steps_of(log):
    return [json.loads(line)["step"] for line in log.read_text().splitlines()]


@pytest.mark.parametrize(
    ("name", "number"),
    [("batch", 0), ("batch", -2), ("samples", 0), ("minutes", -1.0), ("minutes", math.nan)],
)
def test_numbers_too_small_are_refused(refused, tmp_path, name, number):
    rule = f"{name} of a run must be at least"
    with pytest.raises(ValueError, match=rule):
        Run(**{name: number})
    for model in ("shapes-vae", "clear"):
        assert rule in refused("train", model, f"--{name}", number, "--out", tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_log_of_a_crashed_run_is_that_of_a_whole_one(tmp_path):
    log = tmp_path / "log.jsonl"
    assert not fit(VAEObjective(TINY), tmp_path, Run(minutes=0))
    with log.open("a") as file:
        file.write('{"step": 2, "loss": 0.5}\n{"step": 3, "lo')
    assert fit(VAEObjective(TINY), tmp_path)
    assert steps_of(log) == [1, 2, 3]


def test_a_restart_leaves_nothing_of_the_run_before(tmp_path):
    class Broken(VAEObjective):
        def loss(self, *inputs):
            raise RuntimeError("no memory left")

    log, checkpoint = tmp_path / "log.jsonl", tmp_path / "checkpoint.pt"
    assert fit(VAEObjective(TINY), tmp_path)
    assert not fit(VAEObjective(TINY), tmp_path, Run(resume=False, minutes=0))
    assert steps_of(log) == [1]
    with pytest.raises(RuntimeError, match="no memory"):
        fit(Broken(TINY), tmp_path, Run(resume=False))
    assert not checkpoint.exists() and steps_of(log) == []


def test_a_run_goes_on_as_what_it_began(tmp_path):
    checkpoint = tmp_path / "checkpoint.pt"
    assert not fit(VAEObjective(TINY), tmp_path, Run(minutes=0), {"teacher": "ab"})
    before = checkpoint.read_bytes()
    for how, origin, odd in (
        (Run(seed=1), {"teacher": "ab"}, "seed, 0"),
        (Run(), {"teacher": "c"}, "teacher, ab"),
    ):
        with pytest.raises(ValueError, match=f"begun with another {odd}"):
            fit(VAEObjective(TINY, seed=how.seed), tmp_path, how, origin)
    assert checkpoint.read_bytes() == before
    assert fit(VAEObjective(TINY), tmp_path, Run(), {"teacher": "ab"})
    assert load_checkpoint(checkpoint)["identity"] == {"seed": 0, "teacher": "ab"}
    assert fit(VAEObjective(TINY, seed=1), tmp_path, Run(seed=1, resume=False), {"teacher": "c"})


def test_a_checkpoint_of_before_there_were_identities_goes_on(tmp_path):
    checkpoint = tmp_path / "checkpoint.pt"
    assert not fit(VAEObjective(TINY), tmp_path, Run(minutes=0))
    state = load_checkpoint(checkpoint)
    save_atomically({"seed": state.pop("identity")["seed"], **state}, checkpoint)
    assert fit(VAEObjective(TINY), tmp_path, Run(), {"teacher": "ab"})
    assert load_checkpoint(checkpoint)["identity"] == {"seed": 0, "teacher": "ab"}


class Slow(VAEObjective):
    """Prepare data for ever, as an objective with a teacher does for minutes."""

    def inputs(self, step, progress):
        end = time.monotonic() + 300
        while time.monotonic() < end:
            time.sleep(0.01)
        raise AssertionError("nobody stopped it")


@pytest.mark.parametrize("past", [0, 3600])
def test_minutes_count_the_preparation(tmp_path, capsys, past):
    """Time passes before the loop, and in it; a run that was stopped goes on as if nothing had happened."""
    run = Run(minutes=0.002, started=time.perf_counter() - past)
    before = signal.getsignal(signal.SIGALRM)
    assert not fit(Slow(TINY), tmp_path / "run", run)
    assert signal.getsignal(signal.SIGALRM) is before and signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    assert "stopped after step 0, while data for the next one was prepared" in capsys.readouterr().err
    assert load_checkpoint(tmp_path / "run" / "checkpoint.pt")["step"] == 0
    assert fit(VAEObjective(TINY), tmp_path / "run")
    assert steps_of(tmp_path / "run" / "log.jsonl") == [1, 2, 3]


def test_a_full_disk_ends_in_a_sentence(tmp_path):
    """A limit on the size of files simulates the disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    assert not fit(VAEObjective(TINY), tmp_path, Run(minutes=0))
    before = (tmp_path / "checkpoint.pt").read_bytes()
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(
            OSError, match=r"cannot write '.*checkpoint\.pt' .*files written before it are complete"
        ):
            fit(VAEObjective(TINY), tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    assert fit(VAEObjective(TINY), tmp_path)
