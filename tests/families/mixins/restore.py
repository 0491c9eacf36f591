"""A session leaves a model as it found it."""

import torch

import diffusers_ext as dx

from ...hosts import processors
from ..parity import install, outputs
from .config import Config


class RestoreTests(Config):
    """State dict, processor objects and bits."""

    def test_state_dict_keeps_its_keys(self):
        model = self.build()
        before = list(model.state_dict())
        install(model, self.family, self.inputs())
        assert list(model.state_dict()) == before

    def test_a_session_restores_processors_and_bits(self):
        model, call = self.build(), self.inputs(2)
        plain, before = outputs(model, call), processors(model)
        with dx.apply(model):
            assert torch.equal(outputs(model, call), plain)
            assert processors(model) != before
        assert processors(model) == before
        assert torch.equal(outputs(model, call), plain)
