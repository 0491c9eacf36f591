"""The house rules that a machine can check: who imports whom, what an import costs, what the wheel holds."""

import ast
import importlib.util
import os
import subprocess
import sys
import zipfile
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from diffusers_ext.zoo import catalogue

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "diffusers_ext"

# Each part, a folder or a file at the top, with the other parts that it may import; a new part needs a line.
ALLOWED = {
    "__init__": {
        "_version",
        "core",
        "errors",
        "explore",
        "models",
        "parallel",
        "pipelines",
        "processors",
        "rewards",
        "sampling",
        "sampling/headhunter",
        "sampling/npnet",
        "session",
        "settings",
    },
    "__main__": {"cli"},
    "_version": set(),
    "app": {
        "calls",
        "core",
        "errors",
        "evaluate",
        "evaluate/report",
        "explore",
        "families",
        "jobs",
        "jobs/prompts",
        "kernels",
        "kernels/plan",
        "models",
        "outputs",
        "processors",
        "processors/sparse",
        "sampling",
        "session",
        "settings",
        "zoo",
    },
    "calls": {"core"},
    "cli": {"_version", "commands", "outputs"},
    "commands": {
        "_version",
        "app",
        "errors",
        "evaluate",
        "evaluate/report",
        "explore",
        "families",
        "jobs",
        "jobs/prompts",
        "kernels/block_sparse",
        "models",
        "outputs",
        "pipelines",
        "processors",
        "processors/sparse",
        "rewards",
        "sampling",
        "sampling/headhunter",
        "sampling/npnet",
        "settings",
        "training",
        "versions",
        "zoo",
        "zoo/world",
    },
    "core": set(),
    "errors": set(),
    "evaluate": {
        "core",
        "errors",
        "models",
        "outputs",
        "rewards",
        "sampling",
        "session",
        "settings",
        "zoo",
        "zoo/world",
    },
    "evaluate/report": {"evaluate", "outputs", "zoo/world"},
    "explore": {
        "core",
        "errors",
        "evaluate",
        "evaluate/report",
        "families",
        "kernels",
        "kernels/masks",
        "kernels/plan",
        "models",
        "outputs",
        "processors",
        "processors/sparse",
        "prompts",
        "sampling",
    },
    "families": {"core", "errors"},
    "jobs": {
        "core",
        "errors",
        "evaluate",
        "evaluate/report",
        "jobs/prompts",
        "models",
        "outputs",
        "sampling",
        "settings",
        "zoo",
    },
    "jobs/prompts": {"core", "jobs", "outputs", "sampling", "settings"},
    "kernels": set(),
    "kernels/block_sparse": {"kernels", "kernels/masks", "kernels/plan"},
    "kernels/masks": {"kernels"},
    "kernels/plan": {"kernels", "kernels/masks"},
    "models": {
        "core",
        "errors",
        "families",
        "kernels/block_sparse",
        "kernels/plan",
        "processors/sparse",
        "settings",
        "zoo",
        "zoo/world",
    },
    "outputs": {"_version", "errors", "outputs/tags"},
    "outputs/tags": set(),
    "parallel": {
        "core",
        "errors",
        "families",
        "kernels",
        "kernels/block_sparse",
        "kernels/masks",
        "kernels/plan",
        "processors",
        "processors/sparse",
        "session",
    },
    "pipelines": {
        "_version",
        "core",
        "errors",
        "models",
        "outputs",
        "processors",
        "rewards",
        "sampling",
        "session",
        "settings",
        "zoo",
    },
    "processors": {
        "calls",
        "core",
        "errors",
        "kernels",
        "kernels/block_sparse",
        "kernels/masks",
        "kernels/plan",
        "outputs",
        "processors/sparse",
        "prompts",
        "settings",
    },
    "processors/sparse": {
        "core",
        "errors",
        "kernels",
        "kernels/block_sparse",
        "kernels/masks",
        "kernels/plan",
        "settings",
    },
    "prompts": {"errors"},
    "rewards": {"outputs", "zoo"},
    "sampling": {
        "core",
        "errors",
        "families",
        "models",
        "outputs",
        "processors/sparse",
        "rewards",
        "session",
        "settings",
        "zoo",
    },
    "sampling/headhunter": {
        "core",
        "errors",
        "families",
        "processors",
        "rewards",
        "sampling",
        "session",
        "settings",
    },
    "sampling/npnet": {"errors", "outputs", "rewards", "sampling", "settings", "zoo"},
    "session": {"calls", "core", "errors", "families", "versions"},
    "settings": {"core", "errors"},
    "training": {
        "errors",
        "kernels/block_sparse",
        "models",
        "outputs",
        "processors",
        "processors/sparse",
        "rewards",
        "sampling",
        "sampling/npnet",
        "settings",
        "training/data",
        "training/objectives",
        "zoo",
        "zoo/models",
        "zoo/world",
    },
    "training/data": {
        "outputs",
        "rewards",
        "sampling",
        "sampling/npnet",
        "training",
        "zoo/models",
        "zoo/world",
    },
    "training/objectives": {
        "core",
        "families",
        "outputs",
        "processors",
        "processors/sparse",
        "rewards",
        "sampling/npnet",
        "session",
        "training",
        "training/data",
        "zoo",
        "zoo/models",
        "zoo/world",
    },
    "versions": {"errors"},
    "zoo": set(),
    "zoo/models": {"zoo/world"},
    "zoo/world": set(),
}


def module_of(path: Path) -> str:
    """Dotted name of a file of the package."""
    names = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(names[:-1] if names[-1] == "__init__" else names)


FILES = {module_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def part_of(module: str) -> str:
    """The folder of a module, `kernels/plan`; the name of a file at the top, `core`."""
    path = FILES[module].relative_to(PACKAGE)
    return path.parent.as_posix() if len(path.parts) > 1 else path.stem


@cache
def imports(module: str) -> frozenset[str]:
    """Modules of the package that a module imports, anywhere in it; those for type checkers count."""
    path = FILES[module]
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            home = ".".join([*base, *([node.module] if node.module else [])])
            names = {f"{home}.{alias.name}" for alias in node.names}
            found |= names & FILES.keys() or {home}
            found |= {home} if names - FILES.keys() else set()
    return frozenset(found & FILES.keys()) - {module}


@pytest.mark.parametrize("module", FILES)
def test_import_directions(module):
    part = part_of(module)
    assert part in ALLOWED, f"{part} is new; say in ALLOWED what it may import"
    others = {part_of(other) for other in imports(module)} - {part}
    assert others <= ALLOWED[part], f"{module} imports {sorted(others - ALLOWED[part])}"


def test_no_rule_is_left_over():
    used = {part_of(module): set() for module in FILES}
    for module in FILES:
        used[part_of(module)] |= {part_of(other) for other in imports(module)} - {part_of(module)}
    assert used == ALLOWED, "a part that is gone, or an import that nobody makes"


def by_folder() -> dict[str, set[str]]:
    """Parts by the folder or file at the top of the package that they are in."""
    found: dict[str, set[str]] = {}
    for part, others in ALLOWED.items():
        tops = {other.partition("/")[0] for other in others}
        found.setdefault(part.partition("/")[0], set()).update(tops - {part.partition("/")[0]})
    return found


@pytest.mark.parametrize("graph", [by_folder(), {m: imports(m) for m in FILES}], ids=["folders", "files"])
def test_nothing_imports_in_a_circle(graph):
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' > '.join(error.args[1])}")


def test_nothing_below_the_command_line_imports_it():
    faces = {"cli", "commands", "app", "__main__"}
    assert {part for part, others in ALLOWED.items() if others & faces} <= faces


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
        meant = name in ("explore", "rewards")  # folders with names of their own
        assert isinstance(getattr(dx, name), type(os)) == meant, f"dx.{name} is a module"
        assert not (PACKAGE / f"{name}.py").exists(), f"importing diffusers_ext.{name} would hide dx.{name}"


def test_top_level_names_of_the_wheel(tmp_path):
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {n.split("/")[0] for n in names if ".dist-info/" not in n} == {"diffusers_ext"}
    presets = sorted(PACKAGE.glob("models/preset_files/*.toml"))
    assert presets and {str(path.relative_to(ROOT)) for path in presets} <= set(names)
    pages = sorted(PACKAGE.rglob("templates/*.html"))
    assert pages and {str(path.relative_to(ROOT)) for path in pages} <= set(names)
    weights = {n.split("/")[3] for n in names if "/zoo/weights/" in n and n.endswith(".safetensors")}
    assert weights == {*catalogue.MODELS, *catalogue.REWARDS, *catalogue.NOISES}
    assert {n.split("/")[3] for n in names if n.endswith("/card.json")} == weights
    assert not [n for n in names if n.endswith("training_log.jsonl")], "logs are for reruns from a checkout"


def test_kernels_distribution_is_not_shadowed():
    """Hugging Face's `kernels` is imported by name in diffusers and transformers; a top-level folder would
    hide it.
    """
    spec = importlib.util.find_spec("kernels")
    assert spec is None or not str(spec.origin).startswith(str(ROOT))
