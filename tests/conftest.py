"""Shared by the tests of loading, evaluation and the command line."""

import pytest

from tests.tiny_models import sd3


@pytest.fixture(scope="session")
def saved_model(tmp_path_factory):
    """Folder of a tiny SD3 pipeline with random weights that makes pictures of 64 x 64 px."""
    folder = tmp_path_factory.mktemp("models") / "tiny-sd3"
    sd3.pipeline(sample_size=32).save_pretrained(folder)
    return folder


@pytest.fixture
def pipe():
    """The pipeline of `saved_model`, fresh for each test."""
    return sd3.pipeline(sample_size=32)
