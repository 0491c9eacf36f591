"""The README's table from committed result files: `python -m diffusers_ext.evaluate.table [FILES...]`."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ..zoo.suites import IMAGE_TASKS
from .compare import difference, percent

BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
WEIGHTS = Path(__file__).parents[1] / "zoo" / "weights"


def result_files() -> list[Path]:
    """Result files stored beside the weights they describe."""
    return sorted(WEIGHTS.glob("*/results/*.json"))


def render(results: Iterable[Mapping[str, Any]]) -> str:
    """A Markdown table with a row per model, suite and method; figures in percent with 95 % intervals."""
    heads = [
        "model",
        "prompts",
        "CFG",
        "method",
        *(t.replace("_", " ") for t in IMAGE_TASKS),
        "overall",
        "s an image",
    ]
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    notes = []
    for found in results:
        where = [found["model"], f"{found['suite']}, {found['n']} a task", _guidance(found["call"])]
        method = "+".join(m["name"] for m in found["methods"]) or "plain"
        if plain := found.get("plain"):
            lines.append(_row([*where, "plain"], plain))
            change = difference(found["paired"]["overall"])
            setting = f"{found['model']}, {found['suite']}, CFG {_guidance(found['call'])}"
            notes.append(f"- {setting}, {method} minus plain: {change}.")
        lines.append(_row([*where, method], found))
    # Markdown ends a table at the first line without a bar, so the notes follow a blank one.
    return "\n".join([*lines, *(["", *notes] if notes else [])])


def _guidance(call: Mapping[str, Any]) -> str:
    scale = call.get("guidance_scale", 1.0)
    return f"{scale:g}" if scale > 1 else "off"


def _row(cells: Sequence[str], found: Mapping[str, Any]) -> str:
    entries = [found["tasks"].get(t) for t in IMAGE_TASKS] + [found["overall"]]
    shares = [percent(e) if e else "" for e in entries]
    return f"| {' | '.join([*cells, *shares, format(found['seconds_per_image'], '.2f')])} |"


def committed(model: str, suite: str) -> list[str]:
    """One sentence for each committed result of a model on a suite."""
    lines = []
    for found in load(result_files()):
        if (found["model"], found["suite"]) != (model, suite):
            continue
        share = f"{percent(found['overall'])} of {found['overall']['n']} pictures right"
        method = "+".join(m["name"] for m in found["methods"]) or "plain"
        text = f"Measured on {suite} prompts, CFG {_guidance(found['call'])}: {method} {share}"
        if plain := found.get("plain"):
            change = difference(found["paired"]["overall"])
            text += f", plain {percent(plain['overall'])}; {method} minus plain {change}"
        lines.append(text + ".")
    return lines


def insert(text: str, table: str) -> str:
    """`text` with `table` between the two markers; raises `ValueError` without them."""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(
            f"the page needs one {BEGIN} and one {END} below it; add these two lines where the table goes"
        )
    head, rest = text.split(BEGIN)
    return f"{head}{BEGIN}\n{table}\n{END}{rest.split(END)[1]}"


def load(files: Iterable[Path]) -> list[dict[str, Any]]:
    """Parsed result files."""
    return [json.loads(f.read_text()) for f in files]


def main(
    files: Annotated[
        list[Path] | None, typer.Argument(help="results.json files; all committed ones if none.")
    ] = None,
    readme: Annotated[Path, typer.Option(help="Page with the two markers.")] = Path("README.md"),
) -> None:
    """Put the table of results into README.md."""
    table = render(load(files or result_files()))
    readme.write_text(insert(readme.read_text(), table))
    typer.echo(table)


if __name__ == "__main__":
    typer.run(main)
