"""The attention back-end that a user chose reaches our processors, if the model knows back-ends."""

from ..parity import assert_backend_reaches
from .config import Config


class BackendTests(Config):
    """Tests for models that dispatch attention."""

    def test_attention_backend_reaches_our_processors(self):
        assert_backend_reaches(self.build(), self.family, self.inputs())
