"""Test that several processes share a job: started together, under a launcher, and as actors of Ray."""

import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from diffusers_ext.cli import main
from tests.processes import command, wait_for
from tests.test_structure import ROOT

from .jobs import TURBO, lines, pictures, write

RUN = (sys.executable, "-m", "diffusers_ext", "run")
PROMPTS = '[prompts]\ntexts = ["a red circle", "two green squares"]\nseeds = "0-9"\n'
QUIET = {"RAY_USAGE_STATS_ENABLED": "0"}
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **QUIET}


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """A job of 20 pictures, made by one process."""
    path = write(tmp_path_factory.mktemp("job"), TURBO + PROMPTS)
    with pytest.raises(SystemExit) as end:
        main(["run", str(path)])
    assert not end.value.code
    return path


def begin(*words, **kwargs):
    words = list(map(str, words))
    return subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT, **kwargs
    )


def workers(out: Path) -> Counter:
    """Count the pictures that each process has made."""
    return Counter(line["worker"] for line in lines(out))


def launched(rank, port):
    """The environment that a launcher gives one of two processes."""
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
    return {"MASTER_ADDR": "127.0.0.1"} | {name: str(value) for name, value in numbers.items()}


def test_processes_of_a_launcher_share_a_job(job, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = [command("run", job, "--out", tmp_path, **launched(rank, port)) for rank in range(2)]
    said = [process.communicate() for process in running]
    assert [process.returncode for process in running] == [0, 0], said
    assert said[0][0] == f"20 of 20 images are finished, 20 now: {tmp_path}, shown in index.html\n"
    assert said[1][0] == "", "the first one speaks for all"
    assert pictures(tmp_path) == pictures(job.parent / "out" / "job")
    assert sum(workers(tmp_path).values()) == 20 and (tmp_path / "index.html").exists()


@pytest.mark.slow  # three interpreters; above, two processes get what a launcher gives them
def test_a_launcher_shares_a_job_among_its_processes(job, tmp_path):
    launch = ["--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"]
    launch += ["--dynamo_backend", "no", "--main_process_port", "0", "-m", "diffusers_ext", "run"]
    accelerate = Path(sys.executable).parent / "accelerate"
    done = begin(accelerate, "launch", *launch, job, "--out", tmp_path / "b")
    said, err = done.communicate()
    assert done.returncode == 0, err
    assert said == f"20 of 20 images are finished, 20 now: {tmp_path / 'b'}, shown in index.html\n"
    assert pictures(tmp_path / "b") == pictures(job.parent / "out" / "job")
    assert len(workers(tmp_path / "b")) == 2 and sum(workers(tmp_path / "b").values()) == 20


@pytest.mark.slow
def test_three_processes_share_a_job_of_which_one_is_killed(job, tmp_path):
    """The others make its task as well, since its claim ended with it."""
    running = [begin(*RUN, job, "--out", tmp_path) for _ in range(3)]
    wait_for(lambda: len(workers(tmp_path)) == 3, *running)
    running[0].send_signal(signal.SIGKILL)
    assert [p.wait() for p in running] == [-signal.SIGKILL, 0, 0], running[1].stderr.read()
    assert all("20 of 20 images are finished" in p.stdout.read() for p in running[1:])
    assert pictures(tmp_path) == pictures(job.parent / "out" / "job")
    assert len(lines(tmp_path)) in (20, 21) and not list(tmp_path.rglob("*.partial"))


def test_actors_of_ray_make_the_same_bytes(job, tmp_path):
    pytest.importorskip("ray", reason="the extra ray is not installed")
    ray = command("run", job, "--engine", "ray", "--workers", 1, "--out", tmp_path, **QUIET)
    said, err = ray.communicate()
    assert ray.returncode == 0, err
    assert "20 of 20 images are finished, 20 now" in said
    assert pictures(tmp_path) == pictures(job.parent / "out" / "job")


@pytest.mark.slow
def test_ray_survives_the_death_of_an_actor_and_of_its_driver(job, tmp_path):
    pytest.importorskip("ray", reason="the extra ray is not installed")
    path = write(tmp_path, job.read_text().replace("0-9", "0-199"))
    out = tmp_path / "out" / "job"
    ray = begin(*RUN, path, "--engine", "ray", "--workers", 2)
    wait_for(lambda: len(pictures(out)) >= 5, ray)
    actors = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True).stdout
    mine = [
        int(line.split()[0]) for line in actors.splitlines() if "ray::Worker" in line and _ours(line, ray.pid)
    ]
    assert mine, actors
    os.kill(mine[0], signal.SIGKILL)
    before = len(pictures(out))
    wait_for(lambda: len(pictures(out)) >= before + 20, ray)
    ray.send_signal(signal.SIGKILL)
    ray.wait()
    before = pictures(out)
    assert len(before) < 400, "it was killed in the middle"
    again = begin(*RUN, path)
    said, err = again.communicate()
    assert again.returncode == 0, err
    assert "400 of 400 images are finished" in said and before.items() <= pictures(out).items()
    assert not [line for line in lines(out) if line["status"] == "failed"]


def _ours(line: str, driver: int) -> bool:
    """Return whether a process descends from the driver."""
    pid = int(line.split()[1])
    while pid > 1:
        if pid == driver:
            return True
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return False
