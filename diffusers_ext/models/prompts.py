"""Find words in prompts that a model will not understand, or not read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .checkpoint import Checkpoint


def misread(model: Checkpoint, pipe: Any, prompts: Sequence[str], call: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each fault of `prompts` and of the negative prompt in `call`."""
    from .truncation import cut_text

    texts = [*prompts, *filter(None, [call.get("negative_prompt")])]
    return [*unknown_words(model, prompts), *(s for t in texts for s in cut_text(pipe, t, call))]


def unknown_words(model: Checkpoint, prompts: Sequence[str]) -> list[str]:
    """Return one sentence if a model of shapes world is given prompts outside its grammar, else none."""
    from ..zoo.world.captions import parse as of_pictures
    from ..zoo.world.motion import parse as of_clips

    if not model.of_world:
        return []
    clips = "num_frames" in model.call
    others = []
    for prompt in prompts:
        try:
            (of_clips if clips else of_pictures)(prompt)
        except ValueError:
            others.append(prompt)
    if not others:
        return []
    known = (
        ("a red circle moves left", "a blue star")
        if clips
        else ("a red circle and a blue square", "two green stars")
    )
    which = f"{others[0]!r}" + (f" and {len(others) - 1} more" if len(others) > 1 else "")
    return [
        f"{model.name} knows sentences such as {' or '.join(map(repr, known))}; {which} "
        f"{'are' if len(others) > 1 else 'is'} none of them"
    ]
