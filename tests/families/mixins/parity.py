"""Our processors give the bits of those of diffusers."""

import pytest
import torch

from ..parity import assert_parity
from .config import Config


class ParityTests(Config):
    """Bits at the usual size in two precisions, and at odd sizes."""

    def pytest_generate_tests(self, metafunc):
        if "options" in metafunc.fixturenames:
            metafunc.parametrize("options", type(self).odd, ids=str)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
    @pytest.mark.parametrize("batch", [1, 2])
    def test_bits_equal_stock(self, batch, dtype):
        assert_parity(self.build().to(dtype), self.family, self.inputs(batch, dtype=dtype))

    def test_bits_equal_stock_at_odd_sizes(self, options):
        assert_parity(self.build(), self.family, self.inputs(2, **options))
