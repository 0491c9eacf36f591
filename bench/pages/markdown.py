"""Write generated blocks of a page: replace what is between two comments, and keep the rest."""

from __future__ import annotations


def insert(text: str, block: str, name: str) -> str:
    """Return `text` with `block` between the two markers of `name`; raises `ValueError` without them."""
    begin, end = markers(name)
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(
            f"the page needs one {begin} and one {end} below it; add these two lines where the block goes"
        )
    head, rest = text.split(begin)
    return f"{head}{begin}\n{block}\n{end}{rest.split(end)[1]}"


def has(text: str, name: str) -> bool:
    """Return whether a page wants the block `name`."""
    return markers(name)[0] in text


def markers(name: str) -> tuple[str, str]:
    """Return the comments before and after a block; Markdown viewers do not show them."""
    return f"<!-- {name}:begin -->", f"<!-- {name}:end -->"


def markdown(heads: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (heads, ["---"] * len(heads), *rows))
