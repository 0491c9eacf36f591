"""Tests of what every family promises, one concern a file; test classes inherit them and set a `Config`."""

from .context_parallel import ContextParallelTests
from .decode import DecodeTests
from .facts import FactsTests
from .lora import LoRATests
from .offload import OffloadTests
from .parity import ParityTests
from .restore import RestoreTests
from .sizes import SizesTests


class ModelTests(ContextParallelTests, FactsTests, OffloadTests, ParityTests, RestoreTests):
    """All that a denoiser shows by itself."""


class FamilyTests(DecodeTests, LoRATests, ModelTests, SizesTests):
    """All that a family promises whose models take adapters, with a pipeline in `tests.hosts`."""
