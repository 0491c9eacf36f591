"""Read the subjects of a story, and find which of them a scene names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ..errors import MethodError

ARTICLES = "a", "an", "the"


@dataclass(frozen=True)
class StoryScene:
    """A scene is one prompt, with the words that stand in it for each of its subjects, by name."""

    prompt: str
    subjects: Mapping[str, str] = field(default_factory=dict)


def checked(subjects: Mapping[str, str]) -> dict[str, str]:
    """Return the subjects by name; raises `MethodError` for none, empty texts and names that are no word."""
    if not isinstance(subjects, Mapping):
        raise MethodError(
            f"a story has subjects by name, as subjects={{'ann': 'a red circle'}}, got {subjects!r}; name "
            "them."
        )
    found = {str(name).strip(): " ".join(str(text).split()) for name, text in subjects.items()}
    if not found:
        raise MethodError(
            "a story has subjects, such as subjects={'ann': 'a red circle'}, got none; name one or more."
        )
    for name, text in found.items():
        if not re.fullmatch(r"\w[\w-]*", name):
            raise MethodError(f"the name of a subject is one word, got {name!r}; for example 'ann'.")
        if not words(text):
            raise MethodError(
                f"the text of a subject says what it looks like, got {text!r} for {name}; for example 'a red "
                "circle'."
            )
    lower = [name.lower() for name in found]
    if twice := next((name for name in lower if lower.count(name) > 1), None):
        raise MethodError(f"subjects have different names, got {twice!r} twice; rename one.")
    return found


def words(text: str) -> str:
    """Return the text of a subject without its article: the words by which it is found."""
    first, _, rest = text.partition(" ")
    return rest if first.lower() in ARTICLES else text


def read(scene: str | StoryScene, subjects: Mapping[str, str]) -> StoryScene:
    """Return a scene with the words of each subject that it holds.

    In text, a name stands for the text of its subject. A subject is also found by its text, but not inside
    the longer text of another one. Raises `MethodError` for an empty scene, an unknown subject and words that
    are not in the prompt.
    """
    if isinstance(scene, StoryScene):
        for name, said in scene.subjects.items():
            if name not in subjects:
                raise MethodError(
                    f"a scene names subjects of the story ({', '.join(subjects)}), got {name!r}; add it, or "
                    "use one of these."
                )
            if not said.strip() or not _pattern([said]).search(scene.prompt):
                raise MethodError(
                    f"the words of {name} stand in the prompt of the scene, but {said!r} is not in "
                    f"{scene.prompt!r}; write words as they stand there."
                )
        return scene
    if not isinstance(scene, str) or not scene.split():
        raise MethodError(f"a scene is a text that is not empty, got {scene!r}; write a prompt.")
    by_name = {name.lower(): text for name, text in subjects.items()}
    names = _pattern(subjects)
    prompt = " ".join(names.sub(lambda m: by_name[m[0].lower()], scene).split())
    named = {found.lower() for found in names.findall(scene)}
    own = {name: words(text) for name, text in subjects.items()}
    rest = names.sub("|", scene)  # no words go across a name
    seen = {" ".join(found.lower().split()) for found in _pattern(own.values()).findall(rest)}
    return StoryScene(prompt, {n: t for n, t in own.items() if n.lower() in named or t.lower() in seen})


def _pattern(texts: Iterable[str]) -> re.Pattern[str]:
    """Find complete words in upper or lower case, the longest text first."""
    escaped = (r"\s+".join(map(re.escape, t.split())) for t in sorted(texts, key=len, reverse=True))
    return re.compile(rf"(?<![\w-])(?:{'|'.join(escaped)})(?![\w-])", re.IGNORECASE)
