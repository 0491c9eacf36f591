"""Pages and docstrings are plain English: short sentences, and no words that only this project uses.

A failure names file, line and sentence.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "diffusers_ext"
DOCS = tuple(f"docs/{page.name}" for page in sorted((ROOT / "docs").glob("*.md")))
PAGES = ("README.md", "CONTRIBUTING.md", "DESIGN.md", "CHANGELOG.md", *DOCS)
MOST = 40  # words of a sentence in a page
MEAN = 25  # words of a sentence, on average over a page
MOST_DOCSTRING = 30  # words of the first sentence of a docstring
DIALECT = re.compile(
    r"\b(tells?|told|lies?|lay|lain|laid|whole|far|near|so many|anew|hosts?|judges?|twins?|strips?)\b",
    re.IGNORECASE,
)
FRAGMENT = re.compile(r"(Of|As|The same|Whether|What|Where|How|Why|Which|Ours|Theirs)\b")
END = re.compile(r"(?<=[.!?])[\"')*_]*\s+")
BLOCK = r"<!-- ([\w-]+):begin -->.*?<!-- \1:end -->|<!--.*?-->|^```.*?^```"
ABBREVIATION = re.compile(r"\b(e\.g|i\.e|vs|Med|et al|Fig|eq)\.")


def sentences(text: str) -> list[str]:
    """Split a paragraph of prose; a full stop inside a name or a number ends nothing."""
    return [s for s in END.split(ABBREVIATION.sub(r"\1", " ".join(text.split()))) if s]


def paragraphs(markdown: str) -> Iterator[tuple[int, str]]:
    """Find paragraphs and list items of a page with their first lines.

    Code, tables, headings and the blocks of figures that `python -m bench.pages` writes are left out.
    """
    text = re.sub(BLOCK, _blank, markdown, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    start, lines = 0, []
    for number, line in enumerate([*text.splitlines(), ""], start=1):
        plain = line.strip()
        item = re.match(r"([-*]|\d+\.) ", plain)
        skipped = not plain or plain.startswith(("|", "#"))
        if lines and (skipped or item):
            yield start, " ".join(lines)
            lines = []
        if not skipped:
            start = start if lines else number
            lines.append(plain[item.end() :] if item else plain)


def _blank(found: re.Match[str]) -> str:
    return "\n" * found[0].count("\n")  # keeps the numbers of lines


def prose(path: Path) -> list[tuple[str, str]]:
    """Sentences of a page with the place of each."""
    name = path.relative_to(ROOT)
    return [(f"{name}:{line}", s) for line, text in paragraphs(path.read_text()) for s in sentences(text)]


def dialect(sentence: str) -> list[str]:
    """Words of the dialect in a sentence, outside code."""
    return DIALECT.findall(re.sub(r"`[^`]*`", "", sentence))


def length(sentence: str) -> int:
    """Count the words of a sentence; a piece of code is one."""
    return len(re.sub(r"`[^`]*`", "code", sentence).split())


def docstrings() -> Iterator[tuple[str, str]]:
    """First sentences of the docstrings of modules, public classes and public functions."""
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in _public(ast.parse(file.read_text())):
            if text := ast.get_docstring(node):
                line = getattr(node, "lineno", 1)
                yield f"{file.relative_to(ROOT)}:{line}", sentences(text.split("\n\n")[0])[0]


def _public(node: ast.AST) -> Iterator[ast.AST]:
    kinds = ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef
    yield node
    for child in ast.iter_child_nodes(node) if isinstance(node, (ast.Module, ast.ClassDef)) else ():
        if isinstance(child, kinds) and not child.name.startswith("_"):
            yield from _public(child)


def report(faults: list[str]) -> None:
    assert not faults, "\n" + "\n".join(faults)


@pytest.mark.parametrize("page", PAGES)
def test_sentences_of_pages_are_short(page):
    report([f"{place}: {length(s)} words: {s}" for place, s in prose(ROOT / page) if length(s) > MOST])


@pytest.mark.parametrize("page", PAGES)
def test_sentences_of_pages_are_short_on_average(page):
    counts = [length(s) for _, s in prose(ROOT / page)]
    assert sum(counts) / len(counts) < MEAN


@pytest.mark.parametrize("page", PAGES)
def test_pages_have_no_words_of_our_own(page):
    found = ((place, dialect(s), s) for place, s in prose(ROOT / page))
    report([f"{place}: {', '.join(words)}: {s}" for place, words, s in found if words])


def test_docstrings_begin_with_a_short_sentence():
    report([f"{place}: {length(s)} words: {s}" for place, s in docstrings() if length(s) > MOST_DOCSTRING])


def test_docstrings_begin_with_a_sentence_that_stands_alone():
    report([f"{place}: {s}" for place, s in docstrings() if FRAGMENT.match(s)])


def test_docstrings_have_no_words_of_our_own():
    found = ((place, dialect(_without_strips(place, s)), s) for place, s in docstrings())
    report([f"{place}: {', '.join(words)}: {s}" for place, words, s in found if words])


def _without_strips(place: str, sentence: str) -> str:
    """Leave out "strip", which is a word of `parallel`: the rows of a picture that one process has."""
    return re.sub(r"\bstrips?\b", "", sentence) if place.startswith("diffusers_ext/parallel/") else sentence


def test_the_checks_see_what_they_should():
    page = "# Title\nOne `a b c` sentence. Two, of version 2.9 or\nnewer.\n\n- An item. It is\n  told.\n\n"
    page += "| a | told |\n```\ntold\n```\n<!-- x:begin -->\nIt is told.\n<!-- x:end -->\nLast.\n"
    found = [(line, s) for line, text in paragraphs(page) for s in sentences(text)]
    assert found == [
        (2, "One `a b c` sentence."),
        (2, "Two, of version 2.9 or newer."),
        (5, "An item."),
        (5, "It is told."),
        (15, "Last."),
    ]
    assert [length(s) for _, s in found] == [3, 6, 2, 3, 1]
    assert dialect("It is told by `told`, wholly") == ["told"] and FRAGMENT.match("Of the grid.")
