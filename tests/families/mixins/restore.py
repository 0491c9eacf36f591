"""A session leaves a model as it found it."""

import torch

import diffusers_ext as dx

from ...hosts import processors
from ..parity import outputs
from .config import Config


class RestoreTests(Config):
    """State dict, processor objects and bits."""

    def test_a_session_restores_processors_and_bits(self):
        model, call = self.build(), self.inputs(2)
        plain, before, keys = outputs(model, call), processors(model), list(model.state_dict())
        with dx.apply(model):
            assert list(model.state_dict()) == keys
            assert torch.equal(outputs(model, call), plain)
            assert processors(model) != before
        assert processors(model) == before
        assert torch.equal(outputs(model, call), plain)
