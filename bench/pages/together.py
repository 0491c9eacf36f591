"""Write which methods work together, from their slots and gradients."""

from __future__ import annotations

from diffusers_ext.core import Slot
from diffusers_ext.settings.methods import method_class
from diffusers_ext.settings.registry import METHODS

from .markdown import markdown

# Slots with one owner, and where it is the only one.
LAYERS, SESSION = "other layers", "another session"
OWNED = {Slot.CORE: LAYERS, Slot.DENOISER: SESSION, Slot.TEXT: SESSION}


def apart(one: str, two: str) -> str | None:
    """Return where the second of two methods can be in force, or `None` if anywhere."""
    kinds = method_class(one), method_class(two)
    needs = any(getattr(kind, "moves_latents", False) for kind in kinds)
    if needs and not all(kind.differentiable for kind in kinds):
        return SESSION
    places = {OWNED[slot] for slot in kinds[0].slots & kinds[1].slots & OWNED.keys()}
    return SESSION if SESSION in places else next(iter(places), None)


def to_markdown() -> str:
    """Return a row for each method: its slots, and the methods that need other layers or another session."""
    rows = []
    for name in METHODS:
        others = {other: apart(name, other) for other in METHODS if other != name}
        needs = [[other for other, where in others.items() if where == place] for place in (LAYERS, SESSION)]
        slots = [slot.value for slot in Slot if slot in method_class(name).slots]
        rows.append([f"`{name}`", ", ".join(slots), *(", ".join(each) or "none" for each in needs)])
    heads = ["method", "slots", "with these it needs other layers", "with these it needs another session"]
    return markdown(heads, rows)
