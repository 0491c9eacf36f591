"""Set the number of CPU threads of torch."""

from __future__ import annotations

import os


def use_threads(threads: int | None) -> None:
    """Let torch compute on `threads` CPU threads; `None` leaves it all cores."""
    import torch

    if threads is None:
        return
    if threads < 1:
        raise ValueError(
            f"the number of threads must be at least 1, got {threads}; leave it out for all cores"
        )
    # More threads than the system can start end the process in torch, without a word.
    if threads > (most := max(os.cpu_count() or 1, 256)):
        raise ValueError(
            f"the number of threads must be at most {most}, got {threads}; leave it out for all cores"
        )
    torch.set_num_threads(threads)
