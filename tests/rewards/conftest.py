import os

import pytest


@pytest.fixture
def online():
    """Skips tests of published weights, gigabytes to fetch, unless they are asked for."""
    if os.environ.get("DIFFUSERS_EXT_ONLINE") != "1":
        pytest.skip("fetches published weights; set DIFFUSERS_EXT_ONLINE=1")
