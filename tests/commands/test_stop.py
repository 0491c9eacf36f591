"""Test commands that are stopped, killed or lose their disk: finished files stay, the next run goes on."""

import json
import os
import resource
import shutil
import signal

import pytest

from diffusers_ext.cli import main
from diffusers_ext.outputs.record import read
from tests import picture_faults as faults
from tests.processes import command, wait_for

SMALL = ["--steps", "1", "-H", "32", "-W", "32"]


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def signals_are_heard():
    """Let signals act as in a terminal; a shell that runs tests in the background ignores SIGINT."""
    usual = signal.default_int_handler, signal.SIG_DFL, signal.SIG_DFL
    before = {number: signal.signal(number, act) for number, act in zip(SIGNALS, usual, strict=True)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_killed_run_without_a_seed_makes_only_what_is_missing(cli, saved_model, tmp_path):
    words = ["generate", "a", "-m", saved_model, *SMALL, "-n", 12, "--out", tmp_path]
    process = command(*words)
    wait_for(lambda: len(list(tmp_path.glob("*.json"))) >= 2, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = {p: p.stat().st_mtime_ns for p in tmp_path.glob("*.png") if p.with_suffix(".json").exists()}
    assert 2 <= len(before) < 12, "it was killed in the middle"
    assert all(json.loads(p.with_suffix(".json").read_text())["seed"] == read(p)["seed"] for p in before)
    code, out, err = cli(*words)
    assert (code, err) == (0, "") and f"{len(before)} of 12 images were finished before" in out
    assert "of the same command that did not end; --seed -1 draws another" in out
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert len({read(p)["seed"] for p in tmp_path.glob("*.png")}) == len(list(tmp_path.glob("*.png"))) == 12


def test_a_signal_ends_a_run_after_the_current_image(saved_model, tmp_path):
    """A second command that wants the folder meanwhile names the holder in its error.

    A process gets SIGTERM; SIGINT and SIGHUP come to this one below.
    """
    words = ["compare", "a", "-m", saved_model, "--steps", 1, "--seeds", ",".join(map(str, range(60)))]
    process = command(*words, "--batch", 1, "--out", tmp_path)
    wait_for(lambda: len(list(tmp_path.glob("pictures/plain/*.json"))) >= 2, process)
    with pytest.raises(SystemExit) as second:
        main([*map(str, words), "--out", str(tmp_path)])
    assert second.value.code == 2
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate()
    assert process.returncode == 143, err
    made = len(list(tmp_path.glob("pictures/*/*.png")))
    assert f"stopped; {made} of 120 images are finished and complete; run the same command again" in err
    assert "stopping after the current image; Ctrl-C again stops at once" in err and "Traceback" not in err
    assert not (tmp_path / "results.json").exists() and made == len(list(tmp_path.glob("pictures/*/*.json")))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["pictures"]


def from_the_inside(monkeypatch, act, after=1):
    """Run `act` in the autoencoder of the picture after the first `after` ones."""
    from diffusers_ext.models.checkpoint import Checkpoint

    read, count = Checkpoint.read, [0]

    def when(x, rows):
        count[0] += 1
        if count[0] == after + 1:
            act()

    def faulty(*args, **kwargs):
        pipe = read(*args, **kwargs)
        faults.Fault(pipe, range(2**63), when)
        return pipe

    monkeypatch.setattr(Checkpoint, "read", faulty)


@pytest.mark.parametrize(
    "signals, made, code",
    [
        ([signal.SIGHUP], 2, 129),
        ([signal.SIGINT], 2, 130),
        ([signal.SIGINT] * 2, 1, 130),
        ([signal.SIGTERM] * 2, 2, 143),
    ],
)
def test_once_is_after_the_current_image_and_twice_at_once(
    cli, monkeypatch, saved_model, tmp_path, signals, made, code
):
    """Two SIGTERM within a second count as one, since `timeout` sends two."""

    def stop():
        for number in signals:
            os.kill(os.getpid(), number)

    from_the_inside(monkeypatch, stop)
    before = [signal.getsignal(n) for n in SIGNALS]
    ended, _, err = cli("generate", "a", "-m", saved_model, *SMALL, "-n", 4, "--seed", 0, "--out", tmp_path)
    assert ended == code and len(list(tmp_path.glob("*.png"))) == made and "stopped; " in err
    assert [signal.getsignal(n) for n in SIGNALS] == before


def test_ignored_signals_stay_ignored(cli, monkeypatch, saved_model, tmp_path):
    """nohup relies on this."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        from_the_inside(monkeypatch, lambda: os.kill(os.getpid(), signal.SIGHUP))
        code, _, err = cli(
            "generate", "a", "-m", saved_model, *SMALL, "-n", 2, "--seed", 0, "--out", tmp_path
        )
    finally:
        signal.signal(signal.SIGHUP, before)
    assert (code, err) == (0, "")


@pytest.mark.parametrize(
    "words",
    [
        ["generate", "a", "-n", 3, "--seed", 0, *SMALL],
        ["compare", "a", "--seeds", "0,1,2"],
        ["eval", "--n", 1],
    ],
)
def test_a_folder_that_is_removed_is_one_sentence(cli, monkeypatch, saved_model, tmp_path, words):
    folder = tmp_path / "out"
    from_the_inside(monkeypatch, lambda: shutil.rmtree(folder))
    batch = ["--steps", 1, "--batch", 1]
    code, _, err = cli(*words, "-m", saved_model, *batch, "--out", folder)
    assert code == 2 and err.count("\n") == 1
    assert f"its folder '{folder}' was removed while the command ran" in err or "'pictures'" in err
    assert not folder.exists(), "half of a result would look like all of it"


@pytest.mark.parametrize(
    "words", [["generate", "a", "-n", 3, "--seed", 0], ["compare", "a", "--seeds", "0,1,2"]]
)
def test_a_full_disk_is_one_sentence(cli, monkeypatch, saved_model, tmp_path, words):
    """A limit on the size of files simulates the disk; Python ignores the signal that comes with it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    from_the_inside(monkeypatch, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard)))
    try:
        code, _, err = cli(*words, "-m", saved_model, *SMALL, "--batch", 1, "--out", tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert code == 2 and err.count("\n") == 1
    assert "cannot write '" in err and "(File too large); files written before it are complete" in err
    assert "run the same command again" in err and str(tmp_path) in err
    pictures = list(tmp_path.rglob("*.png"))
    assert len(pictures) == 1 and read(pictures[0]), "no half file is left"
    assert not list(tmp_path.rglob(".*"))
