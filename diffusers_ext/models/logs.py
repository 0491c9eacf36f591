"""Switch off progress bars and log lines of diffusers and transformers that a command does not need."""

import logging


def quiet_libraries() -> None:
    """Switch off progress bars, and hints about packages that are not installed."""
    import diffusers
    import transformers

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()


def drop_truncation_lines() -> None:
    """Drop the lines of diffusers about prompts that were cut, of which `truncation.cut_text` warns."""
    from .truncation import TruncationFilter

    for handler in logging.getLogger("diffusers").handlers:
        handler.addFilter(TruncationFilter())
