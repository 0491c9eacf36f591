"""What can go wrong when a method meets a model; each message says what, the rule, what came and the next
step.
"""


class MethodError(ValueError):
    """A method cannot be used as asked."""


class ConflictError(MethodError):
    """Two methods, or a method and a feature of the host, want the same seam."""


class UnsupportedError(MethodError):
    """The model, or the state it is in, has no place for the method."""
