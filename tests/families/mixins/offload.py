"""A session works while diffusers keeps weights elsewhere."""

import pytest
import torch

import diffusers_ext as dx

from ...hosts import processors
from ..parity import outputs
from .config import Config


class OffloadTests(Config):
    """Group offloading of leaves, set up before or after the session."""

    @pytest.mark.parametrize("when", ["before", "after"])
    def test_group_offload(self, when):
        model, call = self.build(), self.inputs()
        plain, before, cpu = outputs(model, call), processors(model), torch.device("cpu")
        offload = dict(onload_device=cpu, offload_device=cpu, offload_type="leaf_level")
        if when == "before":
            model.enable_group_offload(**offload)
        session = dx.apply(model)
        if when == "after":
            model.enable_group_offload(**offload)
        assert torch.equal(outputs(model, call), plain)
        session.close()
        assert torch.equal(outputs(model, call), plain)
        assert processors(model) == before
