"""Test that a job whose workers are killed ends with the files and bytes of an undisturbed one."""

import json
import subprocess
import sys

from tests.test_structure import ROOT


def test_killed_workers_lose_nothing():
    words = ["--kills", "20", "--seeds", "1", "--workers", "2"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.jobs.soak", *words], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["kills"] >= 20 and found["pictures"] == 3
    assert (found["lost"], found["different"], found["left over"], found["twice"]) == (0, 0, 0, 0)
