"""These tests need Triton's interpreter, which must be on before a kernel is imported: see
`test_interpreted.py`.
"""

import functools
import inspect
import os
from types import SimpleNamespace

import pytest
import torch

collect_ignore_glob = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["test_*.py"]


@pytest.fixture(autouse=True, scope="session")
def members_are_listed_once():
    """The interpreter lists Triton's modules at each call of a function, which is a quarter of its time."""
    from triton.runtime import interpreter

    listed = {**vars(inspect), "getmembers": functools.cache(inspect.getmembers)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter, "inspect", SimpleNamespace(**listed))
        yield


@pytest.fixture(autouse=True)
def nan_filled_buffers():
    """New tensors hold NaN, so that a row that a kernel leaves unwritten shows."""
    torch.use_deterministic_algorithms(True)
    assert torch.empty(4).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)
