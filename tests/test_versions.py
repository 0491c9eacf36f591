"""Ranges of other packages: those of pyproject.toml, and what is said at the first `apply` outside them."""

import tomllib
import warnings
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import diffusers_ext as dx
from diffusers_ext import versions
from diffusers_ext.errors import UnsupportedError
from diffusers_ext.versions import NEEDED, OPTIONAL, SESSION, misfit
from tests.tiny_models import flux

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture
def pretend(tmp_path, monkeypatch):
    """Puts metadata of other versions in front of what is installed, for a process that has not asked yet."""

    def put(**packages):
        for name, version in packages.items():
            folder = tmp_path / f"{name}-{version}.dist-info"
            folder.mkdir()
            (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        monkeypatch.syspath_prepend(tmp_path)

    versions.check.cache_clear()
    yield put
    versions.check.cache_clear()


def ranges(lines):
    found = map(Requirement, lines)
    return {r.name: r.specifier for r in found if r.specifier}


def test_the_ranges_are_those_of_the_project():
    assert ranges(PROJECT["dependencies"]) == {n: SpecifierSet(text) for n, text in NEEDED.items()}
    extras = ranges(line for extra in PROJECT["optional-dependencies"].values() for line in extra)
    assert {n: extras[n] for n in OPTIONAL} == {n: SpecifierSet(text) for n, text in OPTIONAL.items()}
    assert set(SESSION) <= set(NEEDED)


def test_what_the_tests_run_with_lies_in_the_ranges():
    lines = (line.partition("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines())
    pinned = {r.name: next(iter(r.specifier)).version for r in map(Requirement, filter(None, lines))}
    assert set(NEEDED) | set(OPTIONAL) <= set(pinned)
    assert {name for name, version in pinned.items() if misfit(name, version)} == set()


@pytest.mark.parametrize(
    "package, version, wrong",
    [
        ("torch", "2.8.0", "older"),
        ("torch", "2.9.0a0+50eac811a6.nv25.09", None),  # builds for a container, made before the release
        ("torch", "2.13.0+cpu", None),
        ("torch", "3.0.0", None),
        ("diffusers", "0.41.9", "older"),
        ("diffusers", "0.42.0", None),
        ("diffusers", "0.43.0", "newer"),
        ("diffusers", "0.43.0.dev0", "newer"),
        ("diffusers", "0.100.1", "newer"),
        ("pillow", "13.0.0", "newer"),
        ("transformers", "4.57.1", "older"),
        ("diffusers", "of my own", None),
        ("triton", "1.0", None),
    ],
)
def test_where_a_version_lies(package, version, wrong):
    assert misfit(package, version) == wrong


def test_below_a_minimum_every_apply_is_refused_and_nothing_is_swapped(pretend):
    pretend(torch="2.4.0", diffusers="0.35.2")
    model = flux.transformer()
    before = dict(model.attn_processors)
    for _ in range(2):
        with pytest.raises(UnsupportedError) as refusal:
            dx.apply(model, dx.CLEAR(2))
    assert str(refusal.value) == (
        "diffusers_ext needs torch>=2.9 and diffusers>=0.42,<0.43, got torch 2.4.0 and diffusers 0.35.2; run "
        "pip install 'torch>=2.9' 'diffusers>=0.42,<0.43'."
    )
    assert all(model.attn_processors[name] is old for name, old in before.items())


def test_above_a_cap_the_first_apply_warns_where_the_user_called_it(pretend):
    pretend(diffusers="0.43.0.dev0")
    model = flux.transformer()
    with pytest.warns(
        UserWarning, match=r"with diffusers>=0\.42,<0\.43, got diffusers 0\.43\.0\.dev0"
    ) as said:
        dx.apply(model).close()
    assert [w.filename for w in said] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dx.apply(model).close()


def test_what_a_session_does_not_run_on_keeps_nobody_from_applying(pretend):
    pretend(matplotlib="3.0.0", pillow="13.0.0")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dx.apply(flux.transformer()).close()
