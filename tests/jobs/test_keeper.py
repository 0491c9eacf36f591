"""Test what a worker finds that claims a task after others had it."""

import pytest

from diffusers_ext.errors import MethodError
from diffusers_ext.jobs import tasks as t
from diffusers_ext.jobs.job import Job
from diffusers_ext.jobs.keeper import Keeper

from .jobs import PROMPTS, TURBO, pictures, write

NAMED = TURBO + PROMPTS.replace('"0-2"', "[0]") + '[output]\nname = "{index}-{seed}"\n'


@pytest.fixture
def job(tmp_path):
    return Job.read(write(tmp_path, NAMED))


@pytest.fixture
def keeper(job):
    """The keeper of a worker that began before anything was made."""
    job.out.mkdir(parents=True)
    keeper = Keeper(job.out)
    yield keeper
    keeper.close()


def test_a_worker_knows_what_another_has_made_since_its_last_look(cli, job, keeper):
    assert cli("run", job.path)[0] == 0
    for task in t.tasks(job, t.points(job)):
        held = keeper.take(task, False, keeper.index.refresh)
        assert held is not None and keeper.finished(task)
        keeper.give_back(held)
    assert len(pictures(job.out)) == 2


def test_a_file_of_something_else_is_still_refused(job, keeper):
    task = next(t.tasks(job, t.points(job)))
    (job.out / task.path).write_bytes(b"of the user")
    with pytest.raises(MethodError, match="is there and is not the picture of prompt 'a red circle'"):
        keeper.take(task, False, keeper.index.refresh)
