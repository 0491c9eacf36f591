"""Know which versions of other packages this one was tested with, and compare those installed with them."""

import warnings
from functools import cache
from importlib import metadata

from .errors import UnsupportedError

# As in pyproject.toml, which a test compares. They stand here as well, since a checkout on PYTHONPATH has no
# metadata, and that of an editable install is as old as the install.
NEEDED = {
    "torch": ">=2.9",
    "diffusers": ">=0.42,<0.43",
    "transformers": ">=5",
    "accelerate": ">=1.10",
    "safetensors": ">=0.5",
    "packaging": ">=24",
    "typer": ">=0.16",
    "jinja2": ">=3.1",
    "tqdm": ">=4.66",
    "numpy": ">=2",
    "scipy": ">=1.14",
    "pillow": ">=11,<13",
    "matplotlib": ">=3.10",
}
OPTIONAL = {"peft": ">=0.17", "imageio-ffmpeg": ">=0.6"}
RANGES = NEEDED | OPTIONAL
SESSION = ("torch", "diffusers", "transformers", "accelerate")  # what a session runs on


def installed(package: str) -> str | None:
    """Return the version that is installed, or `None`."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def misfit(package: str, version: str) -> str | None:
    """Return `"older"` below the range of a package, `"newer"` above it, `None` inside it or without a range.

    Builds, development versions and candidates count as the release that they are named after.
    """
    from packaging.specifiers import SpecifierSet
    from packaging.version import InvalidVersion, Version

    try:
        release = Version(version).base_version
    except InvalidVersion:  # a build with a name of its own; it cannot be compared
        return None
    broken = {s.operator for s in SpecifierSet(RANGES.get(package, "")) if not s.contains(release)}
    if not broken:
        return None
    return "older" if broken & {">=", ">"} else "newer"


def remedy(*packages: str) -> str:
    """Return the command that installs versions inside the ranges."""
    return "pip install " + " ".join(f"'{name}{RANGES[name]}'" for name in packages)


@cache
def check() -> None:
    """Compare the packages that a session runs on with the tested ranges, once in a process that passes.

    Raises `UnsupportedError` below a minimum and warns above a cap.
    """
    found = {name: version for name in SESSION if (version := installed(name)) is not None}
    for kind in ("older", "newer"):
        wrong = [name for name, version in found.items() if misfit(name, version) == kind]
        if not wrong:
            continue
        there = " and ".join(f"{name} {found[name]}" for name in wrong)
        asked = " and ".join(f"{name}{RANGES[name]}" for name in wrong)
        if kind == "older":
            raise UnsupportedError(f"diffusers_ext needs {asked}, got {there}; run {remedy(*wrong)}.")
        warnings.warn(
            f"diffusers_ext was tested with {asked}, got {there}, with which results may differ or calls may "
            f"fail; run {remedy(*wrong)} for a tested version.",
            stacklevel=3,
        )
