"""The house rules that a machine can check: who imports whom, what an import costs, what the wheel holds."""

import ast
import importlib.util
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from diffusers_ext.zoo import catalogue

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "diffusers_ext"

# part -> the parts of ours it may import; families and processors never meet
ALLOWED = {
    "errors": set(),
    "core": set(),
    "outputs": {"errors"},
    "kernels": set(),
    "families": {"core", "errors", "kernels"},
    "values": {"errors"},
    "processors": {"core", "errors", "kernels", "values"},
    "report": set(),
    "versions": {"errors"},
    "clock": {"core"},
    "stopwatch": set(),
    "registration": set(),
    "branches": {"errors", "families"},
    "hoist": {"core", "families"},
    "swap": {"core", "families"},
    "conflicts": {"core", "errors", "hoist"},
    "hook": {
        "branches",
        "clock",
        "conflicts",
        "core",
        "errors",
        "families",
        "hoist",
        "stopwatch",
        "swap",
    },
    "admission": {"core", "errors", "families", "registration"},
    "session": {
        "admission",
        "branches",
        "clock",
        "conflicts",
        "core",
        "errors",
        "families",
        "hoist",
        "hook",
        "registration",
        "report",
        "swap",
        "versions",
    },
    "guided": set(),
    "inputs": set(),
    "memory": {"sizes"},
    "sizes": {"admission", "core", "errors", "families", "values"},
    "settings": {"core", "processors", "values"},
    "presets": {"core", "errors", "processors", "settings", "sizes", "values", "zoo"},
    "forecast": {"errors", "kernels", "presets", "processors", "sizes", "values"},
    "upscale": {
        "admission",
        "call",
        "core",
        "errors",
        "families",
        "forecast",
        "processors",
        "report",
        "session",
        "sizes",
        "values",
        "zoo",
    },
    "overview": {"admission", "core", "families", "report"},
    "parallel": {
        "admission",
        "core",
        "errors",
        "families",
        "hook",
        "kernels",
        "processors",
        "registration",
        "session",
    },
    "zoo": {"errors", "outputs"},
    "rewards": {"errors", "zoo"},
}


def part_of(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imported_parts(path: Path) -> set[str]:
    """First-level parts of the package that a file imports, anywhere in it."""
    package = ["diffusers_ext", *path.relative_to(PACKAGE).parent.parts]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{module}.{alias.name}" for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("diffusers_ext.")}
    return found


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_import_directions(path):
    part = part_of(path)
    if part in ALLOWED:
        parts = {
            name
            for name in imported_parts(path)
            if (PACKAGE / name).exists() or (PACKAGE / f"{name}.py").exists()
        }
        assert parts - {part} <= ALLOWED[part]


def test_nothing_below_the_command_line_imports_it():
    faces = {PACKAGE / "cli.py", PACKAGE / "__main__.py", *(PACKAGE / "commands").glob("*.py")}
    for path in {*PACKAGE.rglob("*.py")} - faces:
        assert not imported_parts(path) & {"cli", "commands"}, path


def test_making_a_picture_loads_nothing_that_scores_it():
    code = "import sys, diffusers_ext.sampling.generate as g; g.generate; "
    code += "print([m for m in sys.modules if m.startswith('diffusers_ext.zoo.')])"
    assert fresh(code) == "[]"


def test_no_method_names_a_model_class():
    from diffusers_ext.families import FAMILIES

    for path in (PACKAGE / "processors").rglob("*.py"):
        assert not [name for name in FAMILIES if name in path.read_text()]


def fresh(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    return done.stdout.strip()


def test_import_is_light():
    heavy = ["torch", "transformers", "triton", "gradio", "diffusers", "scipy", "matplotlib"]
    code = f"import sys, diffusers_ext; print([m for m in {heavy} if m in sys.modules])"
    assert fresh(code) == "[]"


def test_methods_load_without_the_host():
    hosts = "diffusers", "transformers"
    code = f"import sys, diffusers_ext as dx; dx.SoftPAG(); print([m for m in {hosts} if m in sys.modules])"
    assert fresh(code) == "[]"


def test_public_names_are_not_hidden_by_submodules():
    import diffusers_ext as dx

    for name in dx.__all__:
        assert not isinstance(getattr(dx, name), type(os)), f"dx.{name} is a module"
        assert not (PACKAGE / f"{name}.py").exists(), f"importing diffusers_ext.{name} would hide dx.{name}"


def test_top_level_names_of_the_wheel(tmp_path):
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {n.split("/")[0] for n in names if ".dist-info/" not in n} == {"diffusers_ext"}
    presets = sorted(PACKAGE.glob("models/preset_files/*.toml"))
    assert presets and {str(path.relative_to(ROOT)) for path in presets} <= set(names)
    pages = sorted(PACKAGE.glob("evaluate/templates/*.html"))
    assert pages and {str(path.relative_to(ROOT)) for path in pages} <= set(names)
    weights = {n.split("/")[3] for n in names if "/zoo/weights/" in n and n.endswith(".safetensors")}
    assert weights == {*catalogue.MODELS, *catalogue.REWARDS}
    assert {n.split("/")[3] for n in names if n.endswith("/card.json")} == weights
    assert not [n for n in names if n.endswith("training_log.jsonl")], "logs are for reruns from a checkout"


def test_kernels_distribution_is_not_shadowed():
    """Hugging Face's `kernels` is imported by name in diffusers and transformers; a top-level folder would
    hide it.
    """
    spec = importlib.util.find_spec("kernels")
    assert spec is None or not str(spec.origin).startswith(str(ROOT))
