"""Shared by the tests of loading, evaluation and the command line."""

import gc
import json

import pytest
from hypothesis import HealthCheck, settings

from diffusers_ext.cli import main
from tests.tiny_models import sd3, wan

# A busy machine draws examples slowly, which says nothing of them. The same examples come in each run.
settings.register_profile(
    "any machine", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")
# Files of few and long tests begin, so that no process is left with one at the end.
FIRST = ("test_readme", "test_interpreted", "test_fleet", "test_kills", "test_gpu", "test_over_time")
CLIP_CALL = {"height": 32, "width": 32, "num_frames": 9, "num_inference_steps": 2, "max_sequence_length": 24}


def pytest_collection_modifyitems(items):
    """Put the tests of long files first, all else in its order."""
    items.sort(key=lambda item: item.path.stem not in FIRST)


def pytest_collection_finish():
    """Leave what was imported out of the garbage collection, and collect seldom, since it finds little."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


@pytest.fixture(scope="session")
def saved_model(tmp_path_factory):
    """Folder of a tiny SD3 pipeline with random weights that makes pictures of 64 x 64 px."""
    folder = tmp_path_factory.mktemp("models") / "tiny-sd3"
    sd3.pipeline(sample_size=32).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def saved_clip_model(tmp_path_factory):
    """Folder of a tiny Wan pipeline with a card, as training leaves it."""
    from diffusers_ext.zoo.world.suites import VIDEO_TASKS

    folder = tmp_path_factory.mktemp("models") / "tiny-wan"
    wan.pipeline().save_pretrained(folder)
    (folder / "card.json").write_text(json.dumps({"call": CLIP_CALL, "tasks": VIDEO_TASKS}))
    return folder


@pytest.fixture
def pipe():
    """The pipeline of `saved_model`, fresh for each test."""
    return sd3.pipeline(sample_size=32)


@pytest.fixture
def cli(capsys):
    """Runs the command line; gives the exit code and what it printed."""

    def run(*words):
        with pytest.raises(SystemExit) as stop:
            main([str(w) for w in words])
        said = capsys.readouterr()
        return stop.value.code or 0, said.out, said.err

    return run


@pytest.fixture
def refused(cli):
    """Runs a command that must fail: exit code 2, nothing but one line on stderr; gives the line."""

    def run(*words):
        code, out, err = cli(*words)
        assert code == 2 and out == "" and err.startswith("error: ") and err.count("\n") == 1, err
        return err

    return run
