"""What README shows is run: its Python block on a tiny pipeline of the same class, lines and commands as they
stand. What it claims is compared with committed results and with pyproject.toml.
"""

import json
import re
import shlex
import signal
import socket
import tomllib
from pathlib import Path

import pytest

import diffusers_ext
import diffusers_ext.outputs.record
from bench.pages import results_table as table
from diffusers_ext.evaluate.committed import load, result_files
from diffusers_ext.settings.registry import METHODS
from diffusers_ext.zoo import catalogue

from . import processes
from .tiny_models import unet

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results"
README = (ROOT / "README.md").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, re.DOTALL)
(JOB,) = [text for language, text in BLOCKS if language == "toml"]
SWAP, CLIENT, SEARCH = [text for language, text in BLOCKS if language == "python"]
LINES = [line for _, text in BLOCKS for line in text.splitlines()]
COMMANDS = [line for line in LINES if line.startswith("diffusers-ext ")]
COMMANDS.remove(PAGE := "diffusers-ext app")  # which ends only when it is stopped
FORKED = {line for line in COMMANDS if "--engine ray" in line}  # Ray wants a process of its own
INSTALL = [line.partition("#")[0].strip() for line in LINES if line.startswith("pip ")]
INLINE = re.findall(r"`(dx\.[^`]*\([^`]*)`", README)  # expressions in sentences and tables
LOADS = [code for code in INLINE if code.startswith("dx.load(")]
(SCORE,) = [code for code in INLINE if code.startswith("dx.rewards.")]
(REMOVE,) = [code for code in INLINE if code.startswith("dx.remove(")]
OTHERS = [code for code in INLINE if code not in (*LOADS, SCORE, REMOVE)]


def rows_with(name):
    """The README's table row of a method or model."""
    return [line for line in README.splitlines() if line.startswith(f"| `{name}` |")]


def test_the_swap_runs_and_leaves_no_trace(tmp_path):
    """Only the checkpoint, the device and the precision are exchanged: SDXL itself cannot be loaded here."""
    folder = tmp_path / "stable-diffusion-xl-base-1.0"
    unet.pipeline(sdxl=True).save_pretrained(folder)
    code = SWAP.replace("stabilityai/stable-diffusion-xl-base-1.0", str(folder)).replace('"cuda"', '"cpu"')
    code = code.replace("torch.float16", "torch.float32").replace(
        '"a lighthouse at dusk"', '"a lighthouse", num_inference_steps=2, height=32, width=32'
    )
    assert str(folder) in code and "height=32" in code
    scope = {}
    exec(code, scope)
    assert scope["image"].size == (32, 32)
    kinds = {type(p).__module__.partition(".")[0] for p in scope["pipe"].unet.attn_processors.values()}
    assert kinds == {"diffusers"}


def test_the_sampler_finds_a_picture():
    scope = {"dx": diffusers_ext}
    exec(SEARCH, scope)
    assert scope["result"].images[0].size == (64, 64) and scope["result"].nfe == 8


def test_a_program_asks_the_page(tmp_path, monkeypatch):
    """The command starts the page, on a free port, and the block runs against it as it stands."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.chdir(tmp_path)
    page = processes.command(*shlex.split(PAGE)[1:], "--port", port)
    try:
        processes.wait_for(lambda: f"http://127.0.0.1:{port}" in page.said[0], page)
        scope = {}
        exec(CLIENT.replace("7860", str(port)), scope)
    finally:
        page.send_signal(signal.SIGTERM)
        page.communicate()
    assert diffusers_ext.outputs.record.read(scope["path"])["seed"] == scope["facts"]["seed"] == 7
    assert page.returncode == 128 + signal.SIGTERM


def test_a_method_stays_on_until_it_is_removed():
    pipe = unet.pipeline(sdxl=True)
    before = dict(pipe.unet.attn_processors)
    diffusers_ext.apply(pipe, diffusers_ext.SoftPAG())
    assert pipe.unet.attn_processors != before
    eval(REMOVE, {"dx": diffusers_ext, "pipe": pipe})
    assert pipe.unet.attn_processors == before


@pytest.mark.parametrize("code", LOADS)
def test_models_draw_as_shown(code):
    made = eval(code, {"dx": diffusers_ext})
    if "wan" in code:
        assert made.shape == (9, 32, 32, 3)
    else:
        assert made.size == (64, 64)


def test_every_model_of_the_zoo_has_a_row():
    assert all(rows_with(name) for name in (*catalogue.MODELS, *catalogue.REWARDS))
    assert [re.match(r'dx\.load\("([\w-]+)"', code)[1] for code in LOADS] == list(catalogue.MODELS)


def test_the_reward_scores_as_shown():
    import torch

    scope = {"dx": diffusers_ext, "images": torch.rand(2, 3, 64, 64), "prompts": ["a red circle"] * 2}
    assert eval(SCORE, scope).shape == (2,)


@pytest.mark.parametrize("code", OTHERS)
def test_expressions_run_as_they_stand(code):
    assert eval(code, {"dx": diffusers_ext}) is not None


def test_every_method_has_a_row():
    for place in METHODS.values():
        assert rows_with(f"dx.{place.rpartition(':')[2]}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder in which all commands run, one after the other, with the job of the page."""
    found = tmp_path_factory.mktemp("readme")
    (found / "job.toml").write_text(JOB)
    return found


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_run_as_shown(command, folder, cli, monkeypatch):
    words = shlex.split(command)[1:]
    monkeypatch.chdir(folder)
    if command in FORKED:
        process = processes.command(*words)
        (_, err), code = process.communicate(), process.returncode
    else:
        code, _, err = cli(*words)
    assert code == 0, err
    if "--again" in words:
        assert (folder / words[-1]).read_bytes() == (folder / words[1]).read_bytes()
    elif "--out" in words:
        out = folder / words[words.index("--out") + 1]
        records = out.rglob("*.json") if out.is_dir() else out.parent.glob(f"{out.stem}*.json")
        assert out.exists() and list(records), "the command left no record"


def test_make_targets_exist():
    rules = re.findall(r"^(\w[\w -]*):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    targets = {target for rule in rules for target in rule.split()}
    assert set(re.findall(r"make (\w[\w-]*)", README)) <= targets


def test_install_lines_name_this_project_and_extras_that_exist():
    assert "pip install ." in INSTALL
    assert PROJECT["name"] == "diffusers-ext"
    for line in INSTALL:
        words = [w for w in shlex.split(line)[2:] if w != "-e"]
        (what,) = words
        place, _, extras = what.partition("[")
        assert place in (".", "git+URL")
        assert set(extras.rstrip("]").split(",")) - {""} <= set(PROJECT["optional-dependencies"])


def test_versions_are_those_of_the_project():
    sentence = re.search(r"needs (.*?)\. The install", README)[1]
    told = dict(re.findall(r"(\w+) (\d+(?:\.\d+)?)", sentence))
    assert told.pop("Python") == PROJECT["requires-python"].removeprefix(">=")
    for package, least in told.items():
        (line,) = [d for d in PROJECT["dependencies"] if re.match(rf"{package}\b", d)]
        assert re.search(r">=([\d.]+)", line)[1] == least


def percent(entry):
    return f"{100 * entry['accuracy']:.0f} %"


def quality(model, method, **settings):
    """Right pictures with a method and without, and the pairs that it keeps in every step."""
    found = json.loads((RESULTS / f"quality-{model}.json").read_text())
    wanted = {"dense_steps": 0, **settings}
    (row,) = [
        r
        for r in found["rows"]
        if r["method"] == method and all(r["settings"].get(k) == v for k, v in wanted.items())
    ]
    right, dense, kept = percent(row["overall"]), percent(found["dense"]["overall"]), row["average_density"]
    return f"`{model}`: {right} right where dense has {dense}, on {kept:.2f} of the token pairs"


def faster(method):
    rows = json.loads((RESULTS / "growth-cpu-x86_64.json").read_text())["rows"]
    mine = [r for r in rows if (r["method"], r["backend"]) == (method, "reference")]
    last = max(mine, key=lambda r: r["tokens"])
    assert f"at {last['tokens']:,} tokens".replace(",", " ") in README
    return f"{last['dense_ms'] / last['ms']:.1f} times faster"


def test_figures_of_methods_are_those_of_the_committed_runs():
    softpag = json.loads((catalogue.path("shapes-sd3") / "results" / "held-out.json").read_text())
    with_it, without = percent(softpag["overall"]), percent(softpag["plain"]["overall"])
    assert with_it == without, "SoftPAG's row says that nothing changes"
    distilled = json.loads((RESULTS / "distillation-shapes-sd3-clear-r2.json").read_text())["variants"]
    dense, clear, student = (percent(v["overall"]) for v in distilled.values())
    gna = quality("shapes-sd3", "gna", window=[1, 6, 6])
    claims = {
        "SoftPAG": f"`shapes-sd3`: {with_it} right with and without it, {softpag['overall']['n']} prompts",
        "CLEAR": f"{faster('clear r=8')}; `shapes-sd3`: {clear} right where dense has {dense}, {student}",
        "GNA": f"{faster('gna 17x17')}; {gna}",
        "Radial": quality("shapes-wan", "radial", mode="paper", sink_frames=0),
        "RectifiedSparse": quality("shapes-sd", "rectified", keep=0.5),
    }
    for method, claim in claims.items():
        assert claim in rows_with(f"dx.{method}")[0], f"README should say: {claim}"


def test_figures_of_samplers_are_those_of_the_committed_runs():
    found = json.loads((RESULTS / "reno-shapes-sd-turbo.json").read_text())
    right = {name: percent(v["overall"]) for name, v in found["variants"].items()}
    n = found["variants"]["plain"]["overall"]["n"]
    assert f"on {n} held-out prompts, where `shapes-sd-turbo` alone has {right['plain']} right" in README
    assert f"{right['best of 10']} right at {found['evaluations']['best of 10']} evaluations" in README
    assert f"{right['ReNO']} right at the cost of {found['evaluations']['ReNO']} evaluations" in README
    npnet = json.loads((RESULTS / "npnet-shapes-sd-held-out.json").read_text())["variants"]
    with_it, without = (percent(npnet[name]["overall"]) for name in ("npnet", "plain"))
    assert f"`shapes-sd`: {with_it} right, {without} without" in README


def test_figures_of_binding_are_those_of_the_committed_run():
    found = json.loads((RESULTS / "binding-shapes-sd.json").read_text())["variants"]
    right = {name: percent(v["overall"]) for name, v in found.items()}
    assert f"{right['A-STAR']} right, {right['plain']} without it" in rows_with("dx.AStar")[0]
    assert (
        f"{right['structured']} right, {right['plain']} without it" in rows_with("dx.StructuredGuidance")[0]
    )


def test_figures_of_models_are_those_of_the_committed_runs():
    for found in table.plain(load(result_files())):
        if found["suite"] == "train-like":
            assert f"| {percent(found['overall'])} |" in rows_with(found["model"])[0], found["model"]
