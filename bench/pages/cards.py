"""Model cards of the zoo: `python -m bench.pages` writes them from card.json and the committed results."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from diffusers_ext.evaluate.committed import load
from diffusers_ext.evaluate.words import percent
from diffusers_ext.outputs.files import write_json, write_text
from diffusers_ext.zoo import cards, catalogue
from diffusers_ext.zoo.world.mistakes import KINDS

from ..ledger import committed
from .markdown import markdown
from .results_table import plain

REWARD = "reward-shapes-clip-held-out"
LINE = 110  # as the formatter of this project breaks it
CAPTION = "a red circle and a blue square"
CLIP_CAPTION = "a red circle moves left"
ABOUT: Mapping[str, str] = {
    "shapes-sd3": "Joint attention over 64 image tokens and the text of three encoders, as in SD3.",
    "shapes-sd3-256": (
        "Four of the six blocks of shapes-sd3, with four times its tokens: 256, one for each latent "
        "pixel. Windows and disks then leave something out. It learned from shapes-sd3 and has its "
        "autoencoder and text encoders."
    ),
    "shapes-sd": "A U-Net with cross-attention at 16 x 16 and 8 x 8, as in Stable Diffusion 1 and 2.",
    "shapes-sd-turbo": "One call of the U-Net a picture: shapes-sd, distilled by distribution matching.",
    "shapes-wan": "Clips of 9 frames by full attention over time and space, as in Wan 2.1.",
    "shapes-clip": "A learned reward: how well a picture fits a caption, with gradients for the picture.",
    "shapes-sd-npnet": "Changes the noise that shapes-sd begins with, by the prompt: an NPNet.",
}
# What the recipe on a card does not say: where the weights began, what the loss compares, and why.
LEARNED: Mapping[str, tuple[str, ...]] = {
    "shapes-sd": (
        "Its text encoder began as the text half of shapes-clip, as Stable Diffusion's began as "
        "CLIP's. It then trained together with the U-Net.",
        "It predicts v with zero terminal SNR. The first timestep of sampling is therefore pure "
        "noise, and training included that timestep.",
    ),
    "shapes-sd-turbo": (
        "At its first timestep, the teacher already gives a complete picture in one call. Student and "
        "critic begin as copies of the teacher.",
        "Distribution matching moves the student's pictures to where the guided teacher finds them likely.",
        "For a quarter of each batch, the teacher's picture from the same noise is known. Regression "
        "on these pairs ties each noise to a picture.",
        "Student and critic share one optimizer. Each has its own loss, and neither loss changes the "
        "weights of the other.",
    ),
    "shapes-sd3-256": (
        "It began with four of the six blocks of shapes-sd3.",
        "Its target moved from the velocity of that model to the velocity of the data. The velocity "
        "of a model has no noise of its own.",
    ),
    "shapes-wan": (
        "Its text encoder is a UMT5. It first learned on captions alone, to give what shapes-clip gives.",
        "It learned from single frames beside its clips. A frame costs a fifth of the tokens of a "
        "clip, and teaches the same binding of colour and shape.",
        "Its autoencoder halves time: 9 frames become 5 latent frames. Radial attention then has "
        "distances in time to work with.",
        "The autoencoder learned space from single frames, which cost a tenth of a clip. Its "
        "convolutions over time began with weights for the newest frame alone.",
        "Text is zero after the end of the prompt, as in `WanPipeline`. The text encoder therefore "
        "gets the same input for every `max_sequence_length`.",
        "Some batches have the stock length of text. Cross-attention learns from them to ignore the zeros.",
        "Training took five hours on a CPU core. The last three hours had single frames beside the "
        "clips. Before them, 2 % of clips of two held-out objects were right, and after them 10 %.",
    ),
    "shapes-clip": (
        "Each training picture comes with a picture one mistake away. The mistake is a colour, a "
        "shape, swapped colours, a relation, a count, or an object more or fewer. Each also comes "
        "with further wrong captions.",
        "A caption that also holds for a picture is left out of the softmax. A relation counts as "
        "wrong only if it is clearly wrong.",
        "Nothing held out is drawn or named, not even as a mistake. The model would learn that it is "
        "always wrong.",
        "A fifth of the pictures first pass through the autoencoder, with noise on the latents, since "
        "the model will score decoded pictures.",
        "A run that continues from weights leaves its text half unchanged. Cards of models that began "
        "with this text half have its checksum.",
    ),
    "shapes-sd-npnet": (
        "Its pictures are as often right as those of plain noise, within chance, on both suites.",
        "It learned from noise and from what re-denoise sampling makes of it, for captions that shapes-sd "
        "learned on. No reward chose among these pairs.",
        "It explains 28 % of the squared difference of pairs that it did not learn from. With the text of "
        "another prompt, its noise is further off than the plain one.",
        "Text reaches its transformer through eight numbers alone, a scale and a shift for each channel, as "
        "in the paper.",
        "Its features stay at their places, and singular vectors have fixed signs. The published networks "
        "have neither.",
    ),
}
NOISE = "npnet-shapes-sd"  # results by suite
WRONG: Mapping[str, str] = {
    "colour": "a colour",
    "shape": "a shape",
    "swap": "whose colour is whose",
    "relation": "where things are",
    "count": "how many there are",
    "objects": "an object more or fewer",
    "overall": "all",
}
APART = ("name", "model", "pipeline", "licence", "call", "config", "schedule", "history", "results", "sha256")


def results(name: str) -> dict[str, Any]:
    """Return what was measured of a model, by suite: shares of right pictures, or of right preferences."""
    if name in catalogue.REWARDS:
        found = committed(REWARD)
        shares = {
            f"{what}, {change}": {kind: _share(found[change][what][kind]) for kind in (*KINDS, "overall")}
            for change in ("drawn", "decoded")
            for what in ("picture", "caption")
        }
        return {found["suite"]: {"n": found["n"], "preferred": shares}}
    if name in catalogue.NOISES:
        return {p["suite"]: _changed(p) for p in _noises()}
    return {
        p["suite"]: {
            "n": p["n"],
            "tasks": {task: _share(entry) for task, entry in p["tasks"].items()},
            "overall": _share(p["overall"]),
            "seconds_per_image": round(p["seconds_per_image"], 3),
        }
        for p in _plain(name)
    }


def card(name: str) -> dict[str, Any]:
    """Return card.json with the results in it."""
    found = json.loads((catalogue.path(name) / cards.CARD).read_text())
    sums = found.pop("sha256")
    return {**found, "results": results(name), "sha256": sums}


def page(name: str) -> str:
    """Return README.md of a model folder, in the form that the Hub reads."""
    facts = card(name)
    kind = facts.get("pipeline") or facts["model"]
    source = "noise and captions" if name in catalogue.NOISES else "drawn pictures"
    rows = [[key.replace("_", " "), _in_words(value)] for key, value in facts.items() if key not in APART]
    rows += [[key, _in_words(facts[key])] for key in ("config", "schedule")]
    parts = [
        _front(name),
        f"# {name}\n\n{ABOUT[name]} A `{kind}` of the shapes world, trained by the code of diffusers_ext "
        f"from nothing but {source}; for measuring methods, not for making art.",
        f"```python\n{_use(name, facts)}\n```",
        f"## Results\n\n{_measured(name)}",
        f"## Training\n\n{markdown(['fact', 'value'], rows)}",
    ]
    if "autoencoder" in facts:
        trained = "shapes-wan-vae" if facts["pipeline"] == "WanPipeline" else "shapes-vae"
        parts.append(
            f"Its autoencoder came before, by `diffusers-ext train {trained}`; the log of that run was not "
            "kept. `exact` is the share of reconstructions that the detector reads as they were drawn."
        )
    if history := facts.get("history"):
        parts.append("How the run went:\n\n" + "\n".join(f"- {line}" for line in history))
    if learned := LEARNED.get(name):
        parts.append("## How it learned\n\n" + "\n".join(f"- {fact}" for fact in learned))
    parts.append(
        "## Limits\n\nFive flat shapes in eight colours say nothing about photographs. What each model gets "
        "wrong is shown in docs/shapes-world.md and docs/clips.md of the project."
    )
    return "\n\n".join(parts) + "\n"


def preferences(found: Mapping[str, Any]) -> str:
    """Return the table of what a reward prefers, by kind of mistake, from its measurement."""
    columns = [(change, what) for change in ("drawn", "decoded") for what in ("picture", "caption")]
    rows = [
        [WRONG[kind], *(percent(found[change][what][kind]) for change, what in columns)]
        for kind in (*KINDS, "overall")
    ]
    return markdown(["a mistake in", *(f"{what}, {change}" for change, what in columns)], rows)


def write() -> None:
    """Bring every card up to date."""
    for name in (*catalogue.MODELS, *catalogue.REWARDS, *catalogue.NOISES):
        write_json(catalogue.path(name) / cards.CARD, card(name))
        write_text(catalogue.path(name) / "README.md", page(name))


def _plain(name: str) -> list[Mapping[str, Any]]:
    files = sorted((catalogue.path(name) / "results").glob("*.json"))
    return plain(load(files))


def _noises() -> list[Mapping[str, Any]]:
    return [committed(f"{NOISE}-{suite}") for suite in ("tuning", "held-out")]


def _changed(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was measured of an NPNet: its accuracies, and the paired differences to plain noise."""
    own = found["variants"]["npnet"]
    paired = {
        arm: {key: round(p["overall"][key], 4) for key in ("difference", "low", "high")}
        for arm, p in found["paired"].items()
    }
    tasks = {task: _share(entry) for task, entry in own["tasks"].items()}
    return {"n": found["n"], "tasks": tasks, "overall": _share(own["overall"]), "paired": paired}


def _share(entry: Mapping[str, float]) -> dict[str, float]:
    return {key: round(entry[key], 4) for key in ("accuracy", "low", "high")}


def _front(name: str) -> str:
    kind = {"shapes-wan": "text-to-video", "shapes-clip": "zero-shot-image-classification"}
    lines = [
        "license: apache-2.0",
        f"library_name: {'transformers' if name in catalogue.REWARDS else 'diffusers'}",
        f"pipeline_tag: {kind.get(name, 'text-to-image')}",
    ]
    return "\n".join(["---", *lines, "---"])


def _use(name: str, facts: Mapping[str, Any]) -> str:
    if name in catalogue.REWARDS:
        return (
            f'import diffusers_ext as dx\n\nprompts = ["{CAPTION}"] * len(images)\n'
            "cosines = dx.rewards.ShapesCLIP().score(images, prompts)"
        )
    if name in catalogue.NOISES:
        return (
            f'import diffusers_ext as dx\n\npipe = dx.load("{facts["noise_of"]}")\n'
            f'npnet = dx.NPNet.from_pretrained("{name}")\nimages = npnet.sample(pipe, "{CAPTION}").images'
        )
    call = f"call = dict({', '.join(f'{key}={value!r}' for key, value in facts['call'].items())})"
    if len(call) > LINE:
        call = call.replace("(", "(\n    ", 1)[:-1] + "\n)"
    caption, got = (CLIP_CAPTION, "frames") if "num_frames" in facts["call"] else (CAPTION, "images")
    return (
        f'import diffusers_ext as dx\n\npipe = dx.load("{name}")\n{call}\n'
        f'{got} = pipe("{caption}", **call).{got}'
    )


def _measured(name: str) -> str:
    if name in catalogue.REWARDS:
        found = committed(REWARD)
        lead = "How often the right picture, or caption, is preferred to one with a mistake; 95 % intervals"
        return f"{lead}; {found['n']} held-out pairs for each kind.\n\n{preferences(found)}"
    if name in catalogue.NOISES:
        from ..studies.npnet import to_markdown

        parts = (f"{p['suite']}, {p['n']} prompts each:\n\n{to_markdown(p)}" for p in _noises())
        lead = "Share of pictures that show exactly what the prompt asks for, from the same seeds"
        return "\n\n".join([f"{lead}, with 95 % intervals.", *parts])
    suites = _plain(name)
    tasks = list(suites[0]["tasks"])
    rows = [[task, *(percent(p["tasks"][task]) for p in suites)] for task in tasks]
    rows.append(["all", *(percent(p["overall"]) for p in suites)])
    rows.append(["seconds each, one CPU core", *(f"{p['seconds_per_image']:.2f}" for p in suites)])
    lead = "Share of pictures that show exactly what the prompt asks for, with 95 % intervals"
    heads = ["task", *(f"{p['suite']}, {p['n']} each" for p in suites)]
    return f"{lead}; held-out prompts ask for what training never drew.\n\n{markdown(heads, rows)}"


def _in_words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_in_words(part)}" for key, part in value.items())
    if isinstance(value, str) and len(value) == 64:
        return f"`{value[:12]}`"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
