"""Options that several commands share, and the steps they have in common."""

import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ..evaluate.compare import Variant

MODEL = "shapes-sd"  # of the zoo, the one that draws most prompts right
Model = Annotated[str, typer.Option("--model", "-m", help="A zoo name, a local folder or a Hub id.")]
Methods = Annotated[
    list[str] | None, typer.Option("--method", help="A method to apply. It may come several times.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A setting of a method, as scale=3 or softpag.scale=3."),
]
Preset = Annotated[
    bool | None,
    typer.Option(
        "--preset/--no-preset",
        help="Settings that are known for the model: required, or left out. By default they are taken where "
        "there are any; --set goes first.",
        show_default=False,
    ),
]
Steps = Annotated[
    int | None, typer.Option("--steps", help="Number of denoising steps. The model's own when left out.")
]
Guidance = Annotated[
    float | None,
    typer.Option(
        "--guidance-scale", help="Scale of classifier-free guidance. The model's own when left out."
    ),
]
TrueCfg = Annotated[
    float | None,
    typer.Option(
        "--true-cfg-scale",
        help="Guidance scale of models that embed another one, such as FLUX.1. Off when left out.",
    ),
]
Height = Annotated[int | None, typer.Option("--height", help="Height in px. The model's own when left out.")]
Width = Annotated[int | None, typer.Option("--width", help="Width in px. The model's own when left out.")]
Negative = Annotated[
    str | None,
    typer.Option("--negative", help="What not to draw, the negative prompt, for models that guide with one."),
]
# Text, since an empty name as a path would be the current folder.
Out = Annotated[str, typer.Option("--out", "-o", metavar="PATH", help="The output folder.")]
Batch = Annotated[int, typer.Option("--batch", help="Number of images that are made at a time.")]
Device = Annotated[
    str | None,
    typer.Option("--device", help="One of cpu, cuda and mps. CUDA when left out, where there is a GPU."),
]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        help="CPU threads of torch. Models of shapes world run on one, unless OMP_NUM_THREADS is set.",
        show_default=False,
    ),
]
Dtype = Annotated[
    str | None,
    typer.Option("--dtype", help="One of float32, bfloat16 and float16. That of the weights when left out."),
]

DTYPES = ("float32", "bfloat16", "float16")


def open_model(
    name: str, device: str | None = None, dtype: str | None = None, threads: int | None = None
) -> Any:
    """The pipeline on its device; the hosts' bars and hints about absent extras are switched off.

    torch computes on `threads` until the command ends; `None` means one for models of shapes world, unless
    OMP_NUM_THREADS is set, and otherwise what torch chooses.
    """
    import logging

    import torch

    from ..call import CutTextSaid
    from ..loading import load

    quiet_hosts()
    _use_threads(name, threads)
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"--dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    pipe = load(name, **({"dtype": getattr(torch, dtype)} if dtype else {}))
    try:
        pipe = pipe.to(device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"the device {device!r} cannot be used ({reason}); try --device cpu") from error
    pipe.set_progress_bar_config(disable=True)
    for handler in logging.getLogger("diffusers").handlers:
        handler.addFilter(CutTextSaid())
    return pipe


def _use_threads(name: str, threads: int | None) -> None:
    from ..zoo import cards
    from ..zoo.train import use_threads

    # Layers of shapes world are so small that a second thread costs more than it brings.
    alone = threads is None and cards.of_world(name) and "OMP_NUM_THREADS" not in os.environ
    use_threads(1 if alone else threads)


def quiet_hosts() -> None:
    """Switches off the bars of the hosts and hints about absent extras."""
    import diffusers
    import transformers

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()


def defaults(name: str) -> dict[str, Any]:
    """Call arguments that a zoo model, shipped or trained anew, was trained for; none for other models."""
    from ..zoo import cards

    return cards.own_call(name)


def tasks(name: str) -> tuple[str, ...]:
    """Task classes that a model is judged on: what the zoo says, else its card, else those of images."""
    from ..zoo import cards, catalogue
    from ..zoo.suites import IMAGE_TASKS

    if name in catalogue.MODELS:
        return catalogue.MODELS[name].tasks or IMAGE_TASKS
    return tuple(cards.card(Path(name).expanduser()).get("tasks") or IMAGE_TASKS)


def warn_of_texts(pipe: Any, model: str, prompts: Sequence[str], call: dict[str, Any]) -> None:
    """Warnings of what a model will not understand or read of its prompts, the negative one included."""
    from ..call import cut_text

    texts = [*prompts, *filter(None, [call.get("negative_prompt")])]
    for sentence in [*unknown_words(model, prompts), *(s for t in texts for s in cut_text(pipe, t, call))]:
        warn(sentence)


def unknown_words(model: str, prompts: Sequence[str]) -> list[str]:
    """One sentence where a model of shapes world is asked for `prompts` outside its grammar, else none."""
    from ..zoo import cards
    from ..zoo.captions import parse as of_pictures
    from ..zoo.motion import parse as of_clips

    if not cards.of_world(model):
        return []
    clips = "num_frames" in defaults(model)
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
        f"{model} knows sentences such as {' or '.join(map(repr, known))}; {which} "
        f"{'are' if len(others) > 1 else 'is'} none of them"
    ]


def chosen(
    model: str,
    home: Path | None,
    names: Sequence[str],
    settings: Sequence[str],
    preset: bool | None,
) -> tuple[tuple[Any, ...], list[str]]:
    """Methods by name with the settings that are known for a model, and a line for each that says so.

    `home` is the folder of the weights, if there is one. `preset` True refuses methods of which nothing is
    known, False leaves what is known; `settings` go first.
    """
    from ..presets import known, of_model
    from ..settings import build

    if preset is False or (preset is None and not names):
        return build(names, settings), []
    found = (of_model if preset else known)(model, home)
    tables = found.settings if found else {}
    methods = build(names, settings, tables, required=bool(preset))
    lines = (_source(m, tables.get(m.name), model, settings) for m in methods)
    return methods, [line for line in lines if line]


def _source(method: Any, table: dict[str, Any] | None, model: str, settings: Sequence[str]) -> str:
    """Where the settings of a method are from, "" where they were assigned and no others are known."""
    name, usual = method.name, {f.name: f.default for f in dataclasses.fields(method)}
    given = {text.partition("=")[0].strip().removeprefix(f"{name}.") for text in settings} & usual.keys()
    if table is None:
        own = f"{name}: no settings are known for {model}, so its own defaults hold; --set changes them"
        return "" if given else own
    kept = [f"{k} {_brief(v)}" for k, v in table.items() if k not in given and v != usual[k]]
    told = f" ({', '.join(kept)})" if kept else ""
    return f"{name}: the settings that are known for {model}{told}; --no-preset leaves them"


def _brief(value: Any) -> str:
    """A setting in few words: of heads their modules."""
    if isinstance(value, dict):
        return " and ".join(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def variants(
    names: str, settings: Sequence[str], model: str, preset: bool | None
) -> tuple[list["Variant"], list[str]]:
    """`plain,softpag,a+b` as variants, and what `chosen` says; a method gets the settings that name it."""
    from ..evaluate.compare import Variant
    from ..loading import locate
    from ..settings import PLAIN, once

    labels = [label.strip() for label in names.split(",") if label.strip()]
    for label in labels:
        once(label.split("+"))
    used = list(dict.fromkeys(n for label in labels if label != PLAIN for n in label.split("+")))
    built, notes = chosen(model, locate(model), used, settings, preset)
    methods = dict(zip(used, built, strict=True))
    columns = [
        Variant(label, tuple(methods[n] for n in label.split("+") if label != PLAIN)) for label in labels
    ]
    return columns, notes


def refuse_other(out: str | Path, command: str, mark: str) -> None:
    """Raises `ValueError` where the folder `out` holds the file `mark` of another command, whose
    `results.json` would be lost.
    """
    if (Path(out).expanduser() / mark).exists():
        raise ValueError(
            f"{str(out)!r} holds the results of {command} ({mark}), which would be overwritten; choose "
            "another --out"
        )


def warn(text: str) -> None:
    """One line on stderr."""
    typer.echo(f"warning: {text}", err=True)


def show_progress() -> bool:
    """Bars only where someone looks."""
    return sys.stderr.isatty()
