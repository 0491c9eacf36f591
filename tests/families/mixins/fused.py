"""Our processors give the bits of diffusers with fused projections, and after fusing is undone."""

from typing import ClassVar

import pytest
import torch

from diffusers_ext.core import RunContext

from ..parity import assert_parity
from .config import Config


class FusedTests(Config):
    """Tests for models with a separate processor for fused projections."""

    fused: ClassVar[type]  # our processor in place of the fused one of diffusers
    unfused: ClassVar[type]

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
    @pytest.mark.parametrize("batch", [1, 2])
    def test_bits_equal_fused_stock(self, batch, dtype):
        model = self.build().to(dtype)
        assert self._kinds(model) == {self.unfused}
        model.fuse_qkv_projections()
        assert self._kinds(model) == {self.fused}
        assert_parity(model, self.family, self.inputs(batch, dtype=dtype))

    def test_fused_projections_left_over_after_unfusing_are_not_used(self):
        model = self.build()
        model.fuse_qkv_projections()
        model.unfuse_qkv_projections()
        for site in self.family.sites(model, ""):
            attn = model.get_submodule(site.name)
            assert attn.fused_projections  # diffusers leaves the flag set
            attn.to_q.weight.mul_(1.5)
        assert_parity(model, self.family, self.inputs(2))

    def _kinds(self, model):
        return {type(self.family.processor(s, RunContext())) for s in self.family.sites(model, "")}
