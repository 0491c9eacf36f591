"""Our processors refuse context parallelism, which would show them a part of the sequence only."""

import pytest

from diffusers_ext.errors import UnsupportedError

from ..parity import install
from .config import Config


class ContextParallelTests(Config):
    """A config of context parallelism raises, no config does not."""

    def test_context_parallelism_is_refused(self):
        for processor in install(self.build(), self.family, self.inputs()):
            processor._parallel_config = None
            with pytest.raises(UnsupportedError, match=r"shards the sequence.*enable_parallelism\(\)"):
                processor._parallel_config = object()
