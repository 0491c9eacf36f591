"""Exchange tensors between processes: rows beside the border of a strip, all rows, parts of text."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

Strips = Sequence[tuple[int, int]]  # first row and the row behind the last, by rank


def with_halo(x: Tensor, strips: Strips, halo: int, group: dist.ProcessGroup) -> tuple[Tensor, int]:
    """Join `x [B, rows, ...]` of our strip with up to `halo` rows of the strips above and below.

    Returns the rows, and how many of them come before those of our strip. Neighbours send the rows that are
    needed. If a strip has fewer rows than the halo, every rank gets all rows and takes its part.
    """
    rank = dist.get_rank(group)
    first, last = strips[rank]
    top, bottom = max(0, first - halo), min(strips[-1][1], last + halo)
    if min(b - a for a, b in strips) < halo:
        return gathered(x, strips, group)[:, top:bottom], first - top
    above = x.new_empty(x.shape[0], first - top, *x.shape[2:])
    below = x.new_empty(x.shape[0], bottom - last, *x.shape[2:])
    jobs = []
    for found, own, other in ((above, x[:, :halo], rank - 1), (below, x[:, x.shape[1] - halo :], rank + 1)):
        if found.shape[1]:
            peer = dist.get_global_rank(group, other)
            jobs.append(dist.P2POp(dist.isend, own.contiguous(), peer, group))
            jobs.append(dist.P2POp(dist.irecv, found, peer, group))
    for job in dist.batch_isend_irecv(jobs) if jobs else ():
        job.wait()
    return torch.cat([above, x, below], dim=1), first - top


def gathered(x: Tensor, strips: Strips, group: dist.ProcessGroup) -> Tensor:
    """Gather the rows of all strips, `[B, all rows, ...]`, from ours, `x [B, rows, ...]`."""
    most = max(b - a for a, b in strips)
    padded = torch.cat([x, x.new_zeros(x.shape[0], most - x.shape[1], *x.shape[2:])], dim=1)
    parts = stacked(padded, group)
    return torch.cat([part[:, : b - a] for part, (a, b) in zip(parts, strips, strict=True)], dim=1)


def stacked(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Gather `x` of every rank, all of one shape: `[G, ...]`."""
    parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(group.size())]
    dist.all_gather(parts, x.contiguous(), group)
    return torch.stack(parts)
