"""These tests need Triton's interpreter, which must be on before a kernel is imported: see
`test_interpreted.py`.
"""

import os

import pytest
import torch

collect_ignore_glob = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["test_*.py"]


@pytest.fixture(autouse=True)
def nan_filled_buffers():
    """New tensors hold NaN, so that a row that a kernel leaves unwritten shows."""
    torch.use_deterministic_algorithms(True)
    assert torch.empty(4).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)
