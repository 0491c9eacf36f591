"""Note at which steps and in which modules each method acted, call by call."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from torch import nn

from ..calls import PromptMethod
from ..core import Core, Guidance, Method, ReportingCore, RunContext, SecondText, Site
from .swap import Swap


class MethodNotes:
    """Notes on one method: the calls in which it acted, their steps, and its modules.

    `steps` holds numbers of steps from 0, by the number of steps of the run. A bare denoiser has none.
    """

    def __init__(self) -> None:
        self.calls = 0
        self.steps: dict[int, set[int]] = {}
        self.sites: Counter[Site] = Counter()  # calls in which it acted there


class CallNotes:
    """Notes on all methods of a session, taken after each call of a denoiser and outside compiled code."""

    def __init__(self, methods: Sequence[Method], cores: Mapping[int, Mapping[Site, Core]]) -> None:
        """Store the methods, and the cores of each by its `id`."""
        self.of = {id(method): MethodNotes() for method in methods}
        self.calls = 0
        self.compiled: set[Site] = set()  # sites that no call reached outside compiled blocks
        self._methods, self._cores = methods, cores
        self._before: dict[Site, int] = {}  # calls of the processors until the call that ends now

    def take(self, run: RunContext, swap: Swap, acted: Collection[int]) -> None:
        """Note a call; `acted` has the `id` of each guidance, second text and prompt method that acted."""
        reached = self._reached(swap)
        self.calls += 1
        for method in self._methods:
            if isinstance(method, (Guidance, SecondText, PromptMethod)) and id(method) not in acted:
                continue
            sites = [
                site
                for site, core in self._cores[id(method)].items()
                if site in reached and changes(method, site) and _acted(core)
            ]
            if not sites:
                continue
            notes = self.of[id(method)]
            notes.calls += 1
            notes.sites.update(sites)
            if run.step is not None:
                notes.steps.setdefault(run.steps, set()).add(run.step)

    def _reached(self, swap: Swap) -> set[Site]:
        """Return the sites that a call reached. That compiled blocks ran is taken for granted."""
        reached = set()
        for site, ours in swap.processors.items():
            if ours.calls > self._before.get(site, 0):
                self._before[site] = ours.calls
                reached.add(site)
        self.compiled -= reached
        if len(reached) < len(swap.processors):
            unseen = {site for site in swap.processors if site not in reached and compiled(swap.model, site)}
            self.compiled |= unseen
            reached |= unseen
        return reached


def changes(method: Method, site: Site) -> bool:
    """Return whether a method changes something at a site that it selected."""
    return not isinstance(method, SecondText) or method.changes(site)


def compiled(model: nn.Module, site: Site) -> bool:
    """Return whether an attention module is in a compiled block."""
    module = model
    for name in site.name.split("."):
        module = getattr(module, name)
        if getattr(module, "_compiled_call_impl", None) is not None:
            return True
    return False


def _acted(core: Core) -> bool:
    return not isinstance(core, ReportingCore) or core.acted()
