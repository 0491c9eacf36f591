"""Change the attention of subjects in the row of a scene, for IR-Diffusion (arXiv 2411.19261)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..core import Core, Layout, ReportingCore, RunContext, Site
from ..errors import UnsupportedError
from ..kernels.rotary import turned
from .reference_bank import ReferenceBank
from .subject_rows import Rows, SubjectCall, SubjectTokens


class SubjectCore(ReportingCore):
    """A core that changes tokens of subjects in the row of the scene, and passes all others on."""

    def __init__(self, method: Any, site: Site, run: RunContext, inner: Core) -> None:
        self.method, self.site, self.run, self.inner = method, site, run, inner
        # The cores of a method share what they know of a call.
        self.call: SubjectCall = run.plans.setdefault((method.name, id(method)), SubjectCall(method, run))
        self.call.sites.append(site)
        self.subjects: tuple[SubjectTokens, ...] | None = None  # of the current call; None: nothing changes

    def begin_call(self, like: Tensor) -> None:
        self.call.begin(self.site, like)
        active = self.method.active(self.run)
        self.subjects = self.call.tokens(self.site, like.device) if active else None

    def acted(self) -> bool:
        return any(len(s.scene) for s in self.subjects or ())

    def idle(self) -> str | None:
        return self.method.idle(self.run) if self.call.has_scene else None

    def put(self, rows: Rows, k: Tensor, v: Tensor, mask: Tensor | None = None) -> None:
        """Keep what a bank takes of this call."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, layout: Layout | None) -> Tensor:
        out = self.inner(q, k, v, mask, layout)
        if self.subjects is None:
            return out
        rows = self.call.rows(len(q))
        if not self.call.has_scene:
            if not self.run.perturbed:
                self.put(rows, k, v, mask)
            return out
        return self.changed(out, rows, q, k, v, mask)

    def changed(
        self, out: Tensor, rows: Rows, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None
    ) -> Tensor:
        """Return `out [B, N, H, D]`, the plain attention, with other tokens of subjects in the scene."""
        raise NotImplementedError(f"{type(self).__name__} must define changed()")


class SelfCore(SubjectCore):
    """Isolation and reposition: tokens of a subject see the scene without other subjects, and the reference.

    Tokens with the same keys are taken together, so no mask of all pairs of tokens exists.
    """

    def acted(self) -> bool:
        return super().acted() and (self.method.isolation or self.call.sees_references(self.site))

    def put(self, rows: Rows, k: Tensor, v: Tensor, mask: Tensor | None = None) -> None:
        if self.call.sees_references(self.site):
            for s in self.subjects:
                row = rows.reference(s.number)
                kept = k[row][:, s.reference], v[row][:, s.reference]
                self.call.bank.put(self.site.path, self.call.place, s.number, *kept)

    def changed(
        self, out: Tensor, rows: Rows, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None
    ) -> Tensor:
        if mask is not None:
            raise UnsupportedError(
                f"{self.method.name} changes which tokens see each other at {self.site.path}, which has an "
                "attention mask of its own in this call; call the pipeline without one."
            )
        mutual = self.call.sees_references(self.site)
        if not mutual and not self.method.isolation:
            return out
        row = rows.scene
        scene = out[row].clone()
        for s in self.subjects:
            looking, resting = (s.looking, s.resting) if mutual else (s.scene[:0], s.scene)
            keys, values = k[row][:, s.beside], v[row][:, s.beside]
            if len(resting):
                scene[:, resting] = self.inner(q[row][:, resting], keys, values, None, None)
            if len(looking):
                bias = None if s.copies is None else _bias(s.copies, keys)
                ref_keys, ref_values = self.reference(rows, s, k, v)
                keys, values = torch.cat([ref_keys, keys], 1), torch.cat([ref_values, values], 1)
                scene[:, looking] = self.inner(q[row][:, looking], keys, values, bias, None)
        out = out.clone()
        out[row] = scene
        return out

    def reference(self, rows: Rows, s: SubjectTokens, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values of the reference tokens that are seen, `[branches, n, H, D]`."""
        if self.call.bank is None:
            row = rows.reference(s.number)
            k, v = k[row][:, s.reference], v[row][:, s.reference]
        else:
            k, v, _ = self.call.bank.get(self.site.path, self.call.place, s.number, k)
            k, v = k[-rows.branches :], v[-rows.branches :]  # the extra pass of guidance is conditional
        k, v = k[:, s.taken], v[:, s.taken]
        if s.distance is not None:
            frames = s.distance.new_zeros(len(s.distance), 1)
            rotary = self.site.rotary
            k = turned(k, torch.cat([frames, s.distance], 1), rotary.channels, rotary.theta)
        return k, v


class CrossCore(SubjectCore):
    """Tokens of a subject also read the prompt of its reference, in the conditional branch.

    In the unconditional branch all rows have the same prompt.
    """

    def acted(self) -> bool:
        return super().acted() and self.run.pass_ != "uncond"

    def put(self, rows: Rows, k: Tensor, v: Tensor, mask: Tensor | None = None) -> None:
        if self.run.pass_ == "uncond" or self.call.bank.has(self.site.path, "text"):
            return  # the text is the same in all steps
        for s in self.subjects:
            row = self.row(rows, s.number, len(k))
            kept = k[row], v[row], None if mask is None else mask[row]
            self.call.bank.put(self.site.path, "text", s.number, *kept)

    def row(self, rows: Rows, number: int, batch: int) -> slice:
        """Return the row of a reference in the conditional branch, which is the last one."""
        first = batch - rows.per_branch + number
        return slice(first, first + 1)

    def changed(
        self, out: Tensor, rows: Rows, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None
    ) -> Tensor:
        if self.run.pass_ == "uncond":
            return out
        out = out.clone()
        for s in self.subjects:
            if not len(s.scene):
                continue
            if self.call.bank is None:
                row = self.row(rows, s.number, len(k))
                text = k[row], v[row], None if mask is None else mask[row]
            else:
                text = self.call.bank.get(self.site.path, "text", s.number, k)
            read = self.inner(q[-1:, s.scene], *text, None)
            out[-1:, s.scene] = torch.lerp(out[-1:, s.scene], read, self.method.cross_lambda)
        return out


def link(cores: Mapping[Site, Core], bank: ReferenceBank) -> None:
    """Let the cores of a session write a bank, in a call of the references alone, or read it in one scene."""
    next(iter(cores.values())).call.bank = bank


def _bias(copies: Tensor, beside: Tensor) -> Tensor:
    """Return the bias of all keys `[1, 1, 1, S]`: that of a reference, then 0 for `beside [B, n, H, D]`."""
    return torch.cat([copies.to(beside), beside.new_zeros(beside.shape[1])])[None, None, None]
