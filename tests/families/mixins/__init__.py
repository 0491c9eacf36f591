"""What every family promises, one concern a file; a class of tests inherits them and states its `Config`."""

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
