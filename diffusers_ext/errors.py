"""What can go wrong, in messages that say what, the rule, what came and the next step: a method that does not
fit a model, a file that cannot be written.
"""

import os


class MethodError(ValueError):
    """A method cannot be used as asked."""


class ConflictError(MethodError):
    """Two methods, or a method and a feature of the host, want the same seam."""


class UnsupportedError(MethodError):
    """The model, or the state it is in, has no place for the method."""


def unwritable(path: str | os.PathLike[str], error: BaseException) -> OSError:
    """The sentence about a file that could not be written during a run: full disk, removed folder."""
    folder, name = os.path.split(os.path.abspath(path))
    if not os.path.isdir(folder):
        return OSError(
            f"cannot write {name!r}, since its folder {folder!r} was removed while the command ran; what it "
            "held is lost, and the same command makes it again"
        )
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return OSError(
        f"cannot write {os.path.join(folder, name)!r} ({reason}); files written before it are complete, so "
        "make room or choose another folder, and run the same command again"
    )
