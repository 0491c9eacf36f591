"""Share what modular pipelines need."""

import types

import pytest
from diffusers.modular_pipelines.wan import encoders


@pytest.fixture
def texts(monkeypatch):
    """Lets Wan clean its prompts without ftfy, an extra of diffusers that only mends broken unicode."""
    monkeypatch.setattr(encoders, "ftfy", types.SimpleNamespace(fix_text=lambda text: text), raising=False)
