"""Put our attention processors in place of those of diffusers in one denoiser, and put those back."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from ..core import Site
from ..families.base import FamilyProcessor


class Swap:
    """The attention modules of one denoiser, with our processors and those that were there before."""

    def __init__(self, model: nn.Module, sites: Iterable[Site]) -> None:
        self.model = model
        self.processors: dict[Site, FamilyProcessor] = {}  # ours
        self._modules = {site: model.get_submodule(site.name) for site in sites}
        self._old: dict[Site, Any] = {}
        self._during: dict[Site, Any] = {}  # what belongs in every module while the session is open
        self._put: list[tuple[Site, nn.Module, FamilyProcessor]] = []

    def put(self, processors: Mapping[Site, FamilyProcessor]) -> None:
        """Swap processors in; each takes over the attention back-end of the one before."""
        for site, ours in processors.items():
            module = self._modules[site]
            old = module.processor
            ours._attention_backend = getattr(old, "_attention_backend", None)
            set_processor(module, ours)
            self._old[site], self.processors[site] = old, ours
            self._put.append((site, module, ours))
        self._during = {site: module.processor for site, module in self._modules.items()}

    def gone(self) -> set[Site]:
        """Return the sites whose processor is not ours any more."""
        return {site for site, module, ours in self._put if module.processor is not ours}

    def put_back(self) -> None:
        """Undo what diffusers exchanged for a call that is then refused, since it would not do so itself."""
        for site, processor in self._during.items():
            if self._modules[site].processor is not processor:
                set_processor(self._modules[site], processor)

    def restore(self) -> list[Site]:
        """Put the old processors back; return the sites that hold a third one, which stays."""
        foreign = []
        for site, ours in self.processors.items():
            module, old = self._modules[site], self._old[site]
            if module.processor is ours:
                if hasattr(old, "_attention_backend"):  # may have been chosen while ours was in its place
                    old._attention_backend = ours._attention_backend
                set_processor(module, old)
            else:
                foreign.append(site)
        self._clean_backups()
        return foreign

    def _clean_backups(self) -> None:
        """Take our processors out of the backups that U-Net and SD3 keep for unfusing."""
        stock = {id(ours): self._old[site] for site, ours in self.processors.items()}
        kept = getattr(self.model, "original_attn_processors", None)
        for name, processor in (kept or {}).items():
            kept[name] = stock.get(id(processor), processor)


def set_processor(module: nn.Module, processor: Any) -> None:
    """Set the processor of an attention module in the way that its class needs."""
    if hasattr(module, "set_processor"):
        module.set_processor(processor)
    else:
        module.processor = processor
