"""Test the driver of Ray where it has nothing for its actors; test_fleet.py runs it with some."""

import time

from diffusers_ext.jobs import ray_engine
from diffusers_ext.jobs.job import Job
from diffusers_ext.jobs.keeper import Keeper
from diffusers_ext.jobs.watch import Watch
from diffusers_ext.jobs.work import PATIENCE

from .jobs import write


def test_the_driver_sleeps_while_others_hold_what_is_left(tmp_path):
    job = Job.read(write(tmp_path))
    keeper = Keeper(tmp_path)
    watch = Watch(0, keeper.index, job.mark)
    pool = ray_engine._Pool(None, object, 1)  # its actor gets nothing to do
    began = time.monotonic()
    for _ in ray_engine._made(job, pool, iter([[], []]), keeper, watch):
        watch.look()
    keeper.close()
    assert time.monotonic() - began >= 2 * PATIENCE
