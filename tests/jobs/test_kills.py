"""Test that a job whose workers are killed ends with the files and bytes of an undisturbed one."""

import json

from tests.jobs.soak import soak
from tests.processes import Forked


def test_killed_workers_lose_nothing(tmp_path):
    process = Forked(_soak, tmp_path)
    said, err = process.communicate()
    assert process.returncode == 0, err
    found = json.loads(said.splitlines()[-1])
    assert found["kills"] >= 20 and found["pictures"] == 3
    assert (found["lost"], found["different"], found["left over"], found["twice"]) == (0, 0, 0, 0)


def _soak(folder):
    """Fork workers from a process without threads, as `soak` wants it."""
    soak(kills=20, seeds=1, workers=2, longest=0.0, seed=0, folder=folder)
