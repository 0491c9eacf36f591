"""A head set: the attention heads that a search found, with the model, the settings and scores it had."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from ..core import Site, nearest_names
from ..errors import MethodError
from ..outputs.files import write_json
from ..settings.fields import fit

FORMAT = "diffusers_ext head set 1"
FILE = "heads.json"  # its name in a repository on the Hub


class Head(NamedTuple):
    """A head is an attention module, by its path, and a number in it."""

    path: str
    number: int

    def __str__(self) -> str:
        return f"{self.path} head {self.number}"


class Pick(NamedTuple):
    """A pick is a head that a search took, its score at that time, and the round, counted from 1.

    `strength` is its own u in `A' = (1-u)A + uI`; `None` takes that of the method.
    """

    path: str
    head: int
    score: float | None = None
    round: int = 1
    strength: float | None = None


@dataclass(frozen=True, eq=False)
class HeadSet(Mapping[str, Sequence[int] | Mapping[int, float]]):
    """Heads that a search found: a mapping of module paths to head numbers, or to head number -> strength.

    `SoftPAG(heads=...)` takes it as it is, and the path of its file. `picks` are its heads, in the order in
    which they were found. `denoisers` has, by component, the class of each denoiser and the heads of its
    attention modules. `settings` are those of SoftPAG in the search. `alone` has the mean score of each head
    by module, when nothing else was perturbed; `None` for those without one. `found` describes the search.
    """

    picks: tuple[Pick, ...]
    model: str = ""
    denoisers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    alone: Mapping[str, Sequence[float | None]] = field(default_factory=dict)
    found: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, path: str) -> list[int] | dict[int, float]:
        mine = [pick for pick in self.picks if pick.path == path]
        if not mine:
            raise KeyError(path)
        if all(pick.strength is None for pick in mine):
            return sorted(pick.head for pick in mine)
        return {pick.head: pick.strength for pick in sorted(mine, key=lambda p: p.head)}

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(pick.path for pick in self.picks))

    def __len__(self) -> int:
        return len({pick.path for pick in self.picks})

    def __repr__(self) -> str:
        return f"HeadSet({dict(self)!r}, model={self.model!r})"

    def best(self, count: int) -> HeadSet:
        """Return the set of the first `count` heads; raises `MethodError` if there are fewer."""
        if not 1 <= count <= len(self.picks):
            raise MethodError(
                f"this head set has {len(self.picks)} heads, got best({count}); take 1 or more."
            )
        return replace(self, picks=self.picks[:count])

    # files --------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the set as JSON, completely or not at all, and return the path."""
        file = Path(path).expanduser()
        write_json(file, {"format": FORMAT, **asdict(self), "picks": [p._asdict() for p in self.picks]})
        return file

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> HeadSet:
        """Read the JSON of a set; raises `MethodError` for a file that is none."""
        file = Path(path).expanduser()
        try:
            data = json.loads(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise MethodError(
                f"The head set {str(file)!r} cannot be read ({error.strerror}); name the heads.json that "
                "'diffusers-ext headhunter' wrote."
            ) from error
        except ValueError as error:
            raise MethodError(f"The head set {str(file)!r} is no JSON ({error}); search again.") from error
        if not isinstance(data, dict) or data.pop("format", None) != FORMAT:
            raise MethodError(
                f"{str(file)!r} is no head set: its format is not {FORMAT!r}; name the heads.json that "
                "'diffusers-ext headhunter' wrote."
            )
        try:
            fit(data.get("denoisers", {}), Mapping[str, Mapping[str, Any]], "denoisers")
            return cls(**{**data, "picks": tuple(map(_pick, fit(data["picks"], list[dict], "picks")))})
        except (KeyError, TypeError, ValueError) as error:
            raise MethodError(f"The head set {str(file)!r} is damaged ({error}); search again.") from error

    def push_to_hub(self, repo_id: str, *, private: bool = False, token: str | None = None) -> str:
        """Upload the set and a card to a model repository on the Hub, and return the address of the commit.

        The repository is made if it does not exist. Raises the errors of `huggingface_hub`.
        """
        import tempfile

        from huggingface_hub import HfApi

        api = HfApi(token=token)
        name = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        with tempfile.TemporaryDirectory() as folder:
            self.save(Path(folder) / FILE)
            (Path(folder) / "README.md").write_text(self.card(name), encoding="utf-8")
            return str(api.upload_folder(repo_id=name, folder_path=folder, commit_message="Add a head set"))

    def card(self, repo_id: str) -> str:
        """Return the card of the set in a repository: what it is for, how it is used, and its heads."""
        base = f"base_model: {self.model}\n" if "/" in self.model else ""
        rows = [f"| {i} | `{p.path}` | {p.head} | {_score(p)} |" for i, p in enumerate(self.picks, start=1)]
        return "\n".join(
            [
                f"---\nlibrary_name: diffusers_ext\n{base}tags: [head-set]\n---",
                f"# Attention heads of {self.model or 'a model'} for SoftPAG",
                "",
                "```python",
                "import diffusers_ext as dx",
                "from huggingface_hub import hf_hub_download",
                "",
                f'heads = dx.HeadSet.load(hf_hub_download("{repo_id}", "{FILE}"))',
                "session = dx.apply(pipe, dx.SoftPAG(heads=heads, **heads.settings))",
                "```",
                "",
                "|  | module | head | score |\n| --- | --- | --- | --- |",
                *rows,
                "",
            ]
        )

    # the model ----------------------------------------------------------------------------------------------

    def check_model(self, sites: Sequence[Site]) -> None:
        """Raise `MethodError` unless the sites that SoftPAG can use are those of the model of this set."""
        known = {name: dict(facts["heads"]) for name, facts in self.denoisers.items()}
        here: dict[str, dict[str, int]] = {}
        for site in sites:
            here.setdefault(site.component, {})[site.name] = site.heads
        bare = list(here) == [""]
        if not known or here == known or (bare and here[""] in known.values()):
            return
        path = self.picks[0].path if self.picks else next(iter(known.values()), {"": 0}).popitem()[0]
        names = [site.path for site in sites]
        which = " and ".join(f"a {name or 'denoiser'} with {_layers(own)}" for name, own in here.items())
        raise MethodError(
            f"SoftPAG got a head set of {self._model()}, but this pipeline has {which}; the nearest to "
            f"{path} are {', '.join(nearest_names(path, names, 3))}, whose heads dx.HeadHunter searches."
        )

    def _model(self) -> str:
        kinds = " and ".join(f"{f['class']} with {_layers(f['heads'])}" for f in self.denoisers.values())
        return f"{self.model} ({kinds})" if self.model else f"a {kinds}"


def facts_of(kind: str, sites: Sequence[Site]) -> dict[str, Any]:
    """Return what a head set records of a denoiser: its class, and the heads of the modules of SoftPAG."""
    return {"class": kind, "heads": {s.name: s.heads for s in sites if s.kind != "cross"}}


def kept(given: Any, fitted: Any) -> Any:
    """Return heads as they were fitted to their type; head sets stay what they are, and files are read."""
    if isinstance(given, HeadSet):
        return given
    if isinstance(fitted, str):
        if fitted.lstrip()[:1] in ("{", "["):  # text of the wrong type, which no file is named like
            raise MethodError(
                'softpag.heads takes an object of modules and head numbers, such as {"mid.attn1": [0, 2]}, '
                f"or the file of a head set, got {fitted!r}."
            )
        return HeadSet.load(fitted)
    if isinstance(fitted, list):
        return [kept(one, other) for one, other in zip(given, fitted, strict=True)]
    return fitted


def _pick(data: Mapping[str, Any]) -> Pick:
    types = {"path": str, "head": int, "score": float | None, "round": int, "strength": float | None}
    return Pick(**{name: fit(value, types[name], name) for name, value in data.items()})


def _layers(heads: Mapping[str, int]) -> str:
    return f"{len(heads)} attention modules and {sum(heads.values())} heads"


def _score(pick: Pick) -> str:
    return "" if pick.score is None else f"{pick.score:.4f}"
