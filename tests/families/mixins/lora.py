"""Our processors give the bits of diffusers under LoRA adapters."""

from typing import ClassVar

import torch
from peft import LoraConfig

from ..parity import assert_parity, outputs
from .config import Config


class LoRATests(Config):
    """Adapters on all projections, at full weight and, where calls can scale them, at half."""

    scaled_by: ClassVar[str | None] = None  # the argument of a call whose "scale" is that of adapters

    def test_bits_equal_stock_under_lora(self):
        self._assert_parity(self.inputs(1))
        self._assert_parity(self.inputs(2))

    def test_bits_equal_stock_under_lora_at_half_weight(self):
        if self.scaled_by is not None:
            self._assert_parity(self.inputs(2) | {self.scaled_by: {"scale": 0.5}})

    def _assert_parity(self, call):
        model = self.build()
        plain = outputs(model, {k: v for k, v in call.items() if k != self.scaled_by})
        targets = ["to_q", "to_k", "to_v", "to_out.0", *self.adapted]
        # init_lora_weights=False draws B at random, so that the adapters act
        model.add_adapter(LoraConfig(r=2, target_modules=targets, init_lora_weights=False))
        assert not torch.equal(outputs(model, call), plain)
        assert_parity(model, self.family, call)
