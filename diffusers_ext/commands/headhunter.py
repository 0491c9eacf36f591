"""Run `diffusers-ext headhunter`: find the attention heads that SoftPAG should perturb in a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options as opt
from . import scoring

if TYPE_CHECKING:
    from ..models.checkpoint import Checkpoint
    from ..processors.head_set import HeadSet

FILE, MAP = "heads.json", "heads.png"


def headhunter(
    model: opt.Model = opt.MODEL,
    prompt: Annotated[
        list[str] | None, typer.Option("--prompt", help="A prompt of the pairs. It may come several times.")
    ] = None,
    prompts: Annotated[
        str | None, typer.Option("--prompts", metavar="PATH", help="A text file, one prompt a line.")
    ] = None,
    suite: Annotated[
        str | None,
        typer.Option(
            "--suite",
            help="A suite of shapes world that prompts and seeds are taken from. By default tuning.",
        ),
    ] = None,
    style: Annotated[
        str | None,
        typer.Option("--style", help="Search for a style: words that come before each prompt."),
    ] = None,
    pairs: Annotated[
        int | None,
        typer.Option("--pairs", help="Pairs of a prompt and a seed. By default 20, or 5 for a style."),
    ] = None,
    top_k: Annotated[
        int | None,
        typer.Option(
            "--top-k",
            help="Heads that a round takes. By default 24, or a quarter of all heads if less; 3 for a style.",
        ),
    ] = None,
    rounds: Annotated[
        int | None, typer.Option("--rounds", help="Number of rounds. By default 1, or 5 for a style.")
    ] = None,
    fast: Annotated[
        bool,
        typer.Option("--fast", help="Draw fewer pictures: drop the heads early that do little or score low."),
    ] = False,
    layer: Annotated[
        list[str] | None,
        typer.Option("--layer", help="A module or block whose heads are tried. By default all that fit."),
    ] = None,
    reward: scoring.Rewards = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting of SoftPAG in the search, as scale=3."),
    ] = None,
    seed: Annotated[str, typer.Option("--seed", metavar="INTEGER", help="The seed of the first pair.")] = "0",
    steps: opt.Steps = None,
    guidance_scale: opt.Guidance = None,
    true_cfg_scale: opt.TrueCfg = None,
    height: opt.Height = None,
    width: opt.Width = None,
    negative: opt.Negative = None,
    batch: Annotated[
        int, typer.Option("--batch", help="Heads that are tried at a time, a picture each.")
    ] = 8,
    shard: Annotated[
        str,
        typer.Option(
            "--shard", metavar="I/N", help="Draw a part of the pictures, so that N processes share."
        ),
    ] = "0/1",
    device: opt.Device = None,
    dtype: opt.Dtype = None,
    threads: opt.Threads = None,
    out: opt.Out = "out/headhunter",
) -> None:
    """Find the attention heads whose perturbation scores best, for SoftPAG.

    The same command goes on where it stopped. It writes heads.json, a map of all scores in heads.png, and a
    log with the score of each picture.
    """
    from ..models.checkpoint import Checkpoint
    from ..outputs.files import output_folder
    from ..sampling.call import arguments, seed_of

    part, first = opt.shard_of(shard), seed_of(seed)
    checkpoint = Checkpoint.resolve(model)
    asked = _options(pairs=pairs, top_k=top_k, rounds=rounds, layers=layer, pack=batch)
    scorers = scoring.chosen(reward or [], checkpoint, device)
    hunter = _hunter(fast, style, scorers.rewards, asked, settings or [])
    texts, seeds = _pairs(checkpoint, prompt, prompts, suite, first, hunter.pairs)
    folder = output_folder(out)
    pipe = checkpoint.load(device, dtype, threads)
    call = arguments(
        pipe,
        checkpoint.call,
        num_inference_steps=steps,
        guidance_scale=guidance_scale,
        true_cfg_scale=true_cfg_scale,
        height=height,
        width=width,
        negative_prompt=negative,
    )
    opt.warn_of_texts(checkpoint, pipe, [hunter.prefix + text for text in texts], call)
    found = _search(hunter, pipe, texts, seeds, folder, part, checkpoint.name, call)
    if found is None:
        typer.echo(
            f"part {shard} is done, and parts of others are missing in {folder}; run them, then this again"
        )
        return
    _write(found, folder)
    for line in [*table(found), *usage(found, folder)]:
        typer.echo(line)


def _hunter(fast: bool, style: str | None, rewards: Any, asked: dict[str, Any], settings: list[str]) -> Any:
    """Return the search with the settings that were asked for."""
    from dataclasses import replace

    from ..processors.softpag import SoftPAG
    from ..sampling.headhunter.fast import FastHeadHunter
    from ..sampling.headhunter.search import QUALITY, STYLE, HeadHunter
    from ..settings.assign import assigned

    own = assigned(settings, {"softpag": SoftPAG})["softpag"]
    kind = FastHeadHunter if fast else HeadHunter
    if style is None:
        return kind.quality(rewards, guidance=replace(QUALITY, **own), **asked)
    if not style.strip():
        raise ValueError("--style takes the words of a style, got none; for example --style watercolour")
    return kind.style(rewards, style.strip(), guidance=replace(STYLE, **own), **asked)


def _options(**asked: Any) -> dict[str, Any]:
    return {name: value for name, value in asked.items() if value is not None}


def _pairs(
    model: Checkpoint, prompt: list[str] | None, file: str | None, suite: str | None, seed: int, count: int
) -> tuple[list[str], int | list[int]]:
    """Return prompts with the first seed, or those of a suite, a few of each task, with their seeds."""
    given = [name for name, value in (("--prompt", prompt), ("--prompts", file), ("--suite", suite)) if value]
    if len(given) > 1:
        raise ValueError(f"headhunter takes prompts from one place, got {' and '.join(given)}; keep one")
    if prompt:
        return prompt, seed
    if file:
        return _lines(file), seed
    if suite is None and not model.of_world:
        raise ValueError(
            f"headhunter needs prompts for {model.name}, got none; give them by --prompt or --prompts, since "
            "suites are for models of shapes world"
        )
    from ..evaluate.suite import questions

    each = -(-count // len(model.tasks))
    found = [q.item for q in questions(suite or "tuning", each, seed, model.tasks)]
    turns = [found[task * each + i] for i in range(each) for task in range(len(model.tasks))][:count]
    return [item.prompt for item in turns], [item.seed for item in turns]


def _lines(file: str) -> list[str]:
    """Return the prompts in a text file; raises `ValueError` if there are none."""
    rule = "--prompts takes a text file with one prompt a line"
    try:
        lines = Path(file).expanduser().read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise ValueError(f"{rule}, and {file!r} cannot be read ({reason}); check its name") from error
    if not (found := [line.strip() for line in lines if line.strip()]):
        raise ValueError(f"{rule}, and {file!r} has none; write some")
    return found


def _search(
    hunter: Any,
    pipe: Any,
    texts: list[str],
    seeds: int | list[int],
    folder: Path,
    part: tuple[int, int],
    model: str,
    call: dict[str, Any],
) -> HeadSet | None:
    """Run the search; a request to stop ends it between two calls of the pipeline."""
    import sys
    from contextlib import nullcontext

    from ..errors import MethodError
    from ..outputs.claim import claim
    from ..outputs.stop import Interrupted, StopRequest

    alone = claim(folder, "headhunter") if part == (0, 1) else nullcontext()
    with alone, StopRequest("pictures") as stop:
        try:
            return hunter.search(
                pipe,
                texts,
                seeds,
                out=folder,
                shard=part,
                progress=sys.stderr.isatty(),
                stop=lambda: stop.asked,
                model=model,
                **call,
            )
        except MethodError as error:
            if stop.asked:
                raise Interrupted(f"stopped; the same command goes on ({error})", stop.number) from None
            raise


def _write(found: HeadSet, folder: Path) -> None:
    """Write the map, and last the heads."""
    from ..evaluate.report.head_map import head_map
    from ..outputs.record import write_image

    title = [f"{found.model}: scores of single heads", *conditions(found)]
    chosen = [(pick.path, pick.head) for pick in found.picks]
    write_image(folder / MAP, head_map(found.alone, chosen, found.found["plain"], title))
    found.save(folder / FILE)


def conditions(found: HeadSet) -> list[str]:
    """Return sentences on what the scores were measured with."""
    rewards = " + ".join(f"{w:g} {name}" if w != 1 else name for name, w in found.found["rewards"])
    scale, strength = found.settings["scale"], found.settings["strength"]
    return [
        f"Reward {rewards}, mean over {found.found['pairs']} pairs; scale {scale:g}, strength {strength:g}."
    ]


def table(found: HeadSet) -> list[str]:
    """Write the chosen heads as lines, with their scores and the gain over plain pictures."""
    plain = found.found["plain"]
    rows = [["", "module", "head", "round", "score", "over plain"]]
    for i, pick in enumerate(found.picks, start=1):
        gain = "" if plain is None else f"{pick.score - plain:+.4f}"
        rows.append([str(i), pick.path, str(pick.head), str(pick.round), f"{pick.score:.4f}", gain])
    return opt.aligned(rows)


def usage(found: HeadSet, folder: Path) -> list[str]:
    """Return what was written and how it is used."""
    from ..processors.softpag import SoftPAG

    facts, file, usual = found.found, folder / FILE, vars(SoftPAG())
    changed = {name: value for name, value in found.settings.items() if value != usual[name]}
    words = " ".join(f"--set {name}={value}" for name, value in {"heads": file, **changed}.items())
    return [
        f"{facts['pictures']} pictures, {facts['evaluations']} evaluations of the denoiser",
        f"wrote {file} and beside it {MAP}; use it by --method softpag {words}",
    ]
