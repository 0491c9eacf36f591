"""Shared by the tests of prompt files."""

import pytest

from diffusers_ext.jobs.prompts import read


@pytest.fixture
def file(tmp_path):
    """Writes a file of prompts and gives its path."""

    def write(name, content):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.fixture
def refused():
    """Reads a file that must be refused, in one line; gives the line."""

    def run(path, **more):
        with pytest.raises((ValueError, OSError)) as caught:
            list(read(path, **more))
        line = str(caught.value)
        assert "\n" not in line and len(line) < 400
        return line

    return run
