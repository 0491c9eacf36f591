"""Errors of the package. Each message names what went wrong, the rule, the value it got and the next step."""

import os


class MethodError(ValueError):
    """Raised where a method cannot be used as asked."""


class ConflictError(MethodError):
    """Raised where two methods, or a method and a feature of diffusers, want the same slot."""


class UnsupportedError(MethodError):
    """Raised where a model, or the state it is in, cannot take the method."""


def unwritable(path: str | os.PathLike[str], error: BaseException) -> OSError:
    """Explain in one sentence why a file could not be written during a run: full disk, removed folder."""
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
