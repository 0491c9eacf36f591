"""Compiled blocks need as many graphs with our processors as with those of diffusers."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from torch import nn

from ..parity import graphs
from .config import Config


class CompileTests(Config):
    """Counts the graphs after each of several calls."""

    to_compile: ClassVar[Callable[[], nn.Module]]
    calls: ClassVar[Callable[[], Sequence[dict[str, Any]]]]

    def test_compiles_to_as_many_graphs_as_diffusers(self):
        stock = graphs(self.to_compile(), None, self.calls())
        assert graphs(self.to_compile(), self.family, self.calls()) == stock
        self.check_graphs(stock)

    def check_graphs(self, counts):
        """Asserts what else is known of the number of graphs after each call."""
