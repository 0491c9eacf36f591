"""Runs the tests of `interpreted/` in a process of their own.

The interpreter must be on before a kernel is imported, and kernels that were imported with it cannot be
compiled.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import needs

pytest.importorskip("triton", reason=needs.TRITON)


def test_kernels_in_the_interpreter():
    folder = str(Path(__file__).parent / "interpreted")
    # the conftest files above it would load diffusers, which no kernel needs
    command = [sys.executable, "-m", "pytest", "-q", "--tb=short", "--confcutdir", folder, folder]
    env = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=Path(__file__).parents[3])
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
