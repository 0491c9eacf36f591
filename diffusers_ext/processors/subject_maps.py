"""Find subjects of a picture by cross-attention: where it reads the words of each subject."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..calls import DenoiserCall, PromptMethod
from ..core import Core, Layout, ReportingCore, RunContext, Site, Slot
from ..errors import MethodError
from ..kernels.maps import apart
from ..kernels.probs import column_probs
from ..prompts.places import Tokens, whole_words, word_places
from .subject_rows import at_level


@dataclass(frozen=True)
class SubjectMaps(PromptMethod):
    """Records the attention to the words of each subject, summed over heads and steps, in its cores.

    `words` has the subjects of each prompt. They must stand in the prompt. Pictures keep their bits.

    Raises `MethodError` for words that are not in their prompt or cut off, and `UnsupportedError` for models
    without cross-attention to the prompt.
    """

    name: ClassVar[str] = "subject_maps"
    slots: ClassVar[frozenset[Slot]] = frozenset({Slot.OBSERVE})
    reads_layout: ClassVar[bool] = False

    words: Sequence[Sequence[str]] = ()

    def select(self, sites: Sequence[Site]) -> list[Site]:
        """Select all cross-attention."""
        return [site for site in sites if site.kind == "cross"]

    def bind(self, site: Site, run: RunContext, inner: Core) -> Core:
        return WordCore(inner, run)

    def before(self, call: DenoiserCall, cores: "dict[Site, WordCore]") -> None:
        """Say which keys are recorded; words are found once in a run."""
        if "tokens" not in call.kept:
            if call.prompt_count != len(self.words):
                raise MethodError(
                    f"{self.name} has the words of {len(self.words)} prompts, got {call.prompt_count} "
                    "prompts; give a list of words for each."
                )
            call.kept["tokens"] = [self._spans(call, row) for row in range(len(call.prompts))]
            for core in cores.values():
                core.begin(call.kept["tokens"])

    def _spans(self, call: DenoiserCall, row: int) -> list[list[int]]:
        prompt = call.prompts[row]
        tokens, wanted = Tokens(call.tokenizers, prompt), self.words[call.prompt_numbers[row]]
        places = [whole_words(prompt, p) for p in word_places(prompt, wanted, "story", "subjects")]
        return [list(tokens.require(place, "story", "subject")) for place in places]


class WordCore(ReportingCore):
    """Sums the attention to words over steps; the output is that of the core below."""

    def __init__(self, inner: Core, run: RunContext) -> None:
        self.inner, self.run = inner, run
        self.spans: list[list[list[int]]] = []  # the tokens of each subject of each picture
        self.columns: Tensor | None = None
        self.sums: Tensor | None = None  # [pictures, N, columns]

    def begin(self, spans: list[list[list[int]]]) -> None:
        """Forget the last run, and record these tokens from now on."""
        self.spans, self.sums = spans, None
        self.columns = torch.tensor(sorted({t for row in spans for span in row for t in span}))

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, layout: Layout | None) -> Tensor:
        if self.columns is not None and len(self.columns) and not self.run.perturbed:
            count = len(self.spans)  # conditional rows come last
            shown = None if mask is None else mask[-count:]
            maps = column_probs(q[-count:], k[-count:], self.columns.to(q.device), shown).mean(1)
            self.sums = maps if self.sums is None else self.sums + maps
        return self.inner(q, k, v, mask, layout)

    def maps(self, row: int, size: tuple[int, int]) -> Tensor:
        """Return the maps `[S, h, w]` of the subjects of a picture, `size` being the grid of the site.

        The map of each token is divided by its mean. So a token that is read in one place counts more there
        than one that is read everywhere else.
        """
        sums = self.sums[row].float().cpu()
        sums = sums / sums.mean(0).clamp_min(torch.finfo(sums.dtype).tiny)
        places = [torch.isin(self.columns, torch.tensor(span)) for span in self.spans[row]]
        return torch.stack([sums[:, place].mean(-1) for place in places]).unflatten(1, size)


def subject_masks(cores: Mapping[Site, WordCore], layout: Layout) -> list[Tensor]:
    """Return masks `[S, h, w]` of the S subjects of each picture, on the finest grid of the recorded maps.

    Maps are averaged over steps, heads, layers and tokens, as in ConsiStory (arXiv 2402.03286, section 3.1).
    A place belongs to the subject that is read there most, if its map is above the middle of its values.
    """
    sizes = {site: at_level(layout, site) for site in cores}
    finest = max(sizes.values())
    found = []
    for row in range(len(next(iter(cores.values())).spans)):
        total = 0.0
        for site, core in cores.items():
            if core.spans[row]:
                maps = core.maps(row, sizes[site])
                total = total + F.interpolate(maps[None], finest, mode="bilinear")[0]
        found.append(apart(total) if torch.is_tensor(total) else torch.zeros(0, *finest).bool())
    return found
