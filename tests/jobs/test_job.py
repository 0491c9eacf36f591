"""Test job files: what they say, and a sentence with file, table and key for what they cannot say."""

import pytest

from diffusers_ext.jobs import grid, tasks
from diffusers_ext.jobs.job import Job, seeds_of

from .jobs import PROMPTS, TURBO, write

FULL = """
[model]
name = "shapes-sd"
threads = 1
[call]
num_inference_steps = 3
[[method]]
name = "softpag"
scale = 2.0
[sampler]
name = "best-of-2"
rewards = {shapes-clip = 2.0}
micro_batch = 1
[prompts]
texts = ["a red circle"]
[grid]
softpag.scale = [1.0, 3.0]
call.guidance_scale = [2.0, 4.0]
model = ["shapes-sd", "shapes-sd-turbo"]
seeds = [5, 6]
[output]
folder = "made"
"""


def test_every_table_reaches_the_tasks(tmp_path):
    job = Job.read(write(tmp_path, FULL))
    points = tasks.points(job, "cpu")
    assert job.out == tmp_path / "made" and job.seeds == (5, 6)
    assert [p.label for p in points[:3]] == [
        "model=shapes-sd, softpag.scale=1.0, call.guidance_scale=2.0",
        "model=shapes-sd, softpag.scale=1.0, call.guidance_scale=4.0",
        "model=shapes-sd, softpag.scale=3.0, call.guidance_scale=2.0",
    ], "models change last, since loading one takes longest"
    assert len(points) == 8 and points[4].model.name == "shapes-sd-turbo"
    assert points[0].methods[0].scale == 1.0 and points[2].methods[0].scale == 3.0
    assert points[1].common["call"] == {
        "height": 64, "width": 64, "num_inference_steps": 3, "guidance_scale": 4.0
    }  # fmt: skip
    method, sampler = points[0].common["methods"]
    assert (method["name"], sampler["name"], sampler["n"]) == ("softpag", "best-of-n", 2)
    assert [(r["name"], r["weight"]) for r in sampler["rewards"]] == [("shapes-clip", 2.0)]
    assert [(t.point.number, t.seed) for t in tasks.tasks(job, points)][:3] == [(0, 5), (0, 6), (1, 5)]


def test_a_folder_may_be_below_the_home_of_the_user(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    job = Job.read(write(tmp_path, PROMPTS + '[output]\nfolder = "~/pictures"\n'))
    assert job.out == tmp_path / "home" / "pictures"


def test_a_grid_can_turn_methods_on_and_off(tmp_path):
    text = TURBO + '[[method]]\nname = "softpag"\nscale = 2.5\n' + PROMPTS
    job = Job.read(write(tmp_path, text + '[grid]\nmethod = ["plain", "softpag", "softpag+nag"]\n'))
    plain, one, two = tasks.points(job, "cpu")
    assert plain.methods == () and one.methods[0].scale == 2.5 and [m.name for m in two.methods] == [
        "softpag", "nag"
    ]  # fmt: skip


@pytest.mark.parametrize(
    "text, said",
    [
        ("model = 3\n", "[model] must be a table of keys, got 3"),
        ("[modle]\n", "has no table 'modle'; nearest is 'model', valid are model, call, method"),
        ('[model]\nnmae = "x"\n', "[model] has no key 'nmae'; nearest is 'name', valid are name, device"),
        ("[model]\nthreads = 0\n", "[model]: ModelTable threads must be 1 or more, got 0"),
        ("[model]\nname = 3\n", "[model] name takes text, got 3"),
        ("[model\n", "is not TOML: Expected ']' at the end of a table declaration (at line 1, column 7)"),
        ("", "[prompts] needs texts or file, got neither"),
        (PROMPTS + '[[method]]\nname = "softpga"\n', "unknown method 'softpga'"),
        (PROMPTS + '[[method]]\nname = "softpag"\nscael = 1\n', "has no setting 'scael'; nearest is 'scale'"),
        (PROMPTS + "[[method]]\nscale = 1\n", "[[method]] needs a name, got scale"),
        (PROMPTS + "[method]\nscale = 1\n", "[[method]] is a list of tables"),
        (PROMPTS + '[sampler]\nname = "best-of"\n', "unknown method or sampler 'best-of'"),
        (PROMPTS + '[sampler]\nname = "softpag"\n', "[sampler] takes the name of a sampler, got 'softpag'"),
        (PROMPTS + '[sampler]\nname = "reno"\nm = 2\n', "[sampler] has no key 'm'; nearest is"),
        (PROMPTS + '[grid]\nsoftpag.scale = [1]\n', "add [[method]] with name = 'softpag'"),
        (PROMPTS + "[grid]\ncal.height = [3]\n", "[grid] has no axis 'cal.height'; nearest is 'call.KEY'"),
        (PROMPTS + "[grid]\ncall.height = 3\n", "[grid] call.height takes a list of values, got 3"),
        (PROMPTS + "[grid]\ncall.height = [3, 3]\n", "[grid] call.height has each value once"),
        (PROMPTS + "[grid]\nseeds = [1]\n", "seeds come once, got [prompts] seeds and [grid] seeds"),
        (PROMPTS + '[output]\nlayout = "genevel"\n', "no layout 'genevel'; nearest is 'geneval'"),
        (PROMPTS + '[output]\nlayout = "flat"\nname = "{seed}"\n', "takes layout or name, got both"),
        (PROMPTS.replace('"0-2"', '"2-0"'), "seeds counts up, got '2-0'; write '0-2'"),
        (PROMPTS.replace('"0-2"', "[1, 1]"), "needs seeds that are not the same"),
        (PROMPTS.replace('"0-2"', "-1"), "takes whole numbers from 0 to 2**63 - 1, got -1"),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_one_sentence(refused, tmp_path, text, said):
    path = write(tmp_path, text)
    sentence = refused("run", path)
    assert said in sentence and str(path) in sentence
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "text, said",
    [
        (PROMPTS + '[model]\nname = "shapes-ds"\n', "unknown model 'shapes-ds': the zoo has"),
        (PROMPTS + "[call]\nnum_inference_step = 3\n", "nearest is 'num_inference_steps'"),
        (PROMPTS + '[output]\nformat = "mp4"\n', "makes pictures, which [output] format writes as png"),
        (PROMPTS + "[output]\nfps = 8\n", "shapes-sd makes pictures, which have no [output] fps"),
        (PROMPTS + '[output]\nname = "../{seed}"\n', "a name stays below the output folder"),
        (PROMPTS + '[output]\nname = "{seeed}"\n', "unknown field 'seeed'; nearest is 'seed'"),
        (PROMPTS + '[output]\nlayout = "geneval"\n', "the layout geneval needs the metadata of each prompt"),
        ('[prompts]\nfile = "none.txt"\n', "there is no file of prompts"),
        (PROMPTS + "[call]\nheight = 63\n", "63"),
    ],
)  # fmt: skip
def test_what_the_model_cannot_make_is_refused_before_anything_is_made(refused, tmp_path, text, said):
    assert said in refused("run", write(tmp_path, text))
    assert not list(tmp_path.rglob("*.png"))


def test_a_file_that_is_missing_is_one_sentence(refused, tmp_path):
    assert "cannot read the job file" in refused("run", tmp_path / "job.toml")


@pytest.mark.parametrize(
    "words", [["--shard", "2/2"], ["--shard", "a"], ["--shard", "²/3"], ["--batch", 0], ["--engine", "dask"]]
)
def test_options_are_checked(refused, tmp_path, words):
    assert str(words[1]) in refused("run", write(tmp_path), *words)


def test_seeds_are_a_number_a_list_or_a_range():
    assert seeds_of(3, "") == (3,) and seeds_of([4, 2], "") == (4, 2) and seeds_of("2-4", "") == (2, 3, 4)
    for wrong in (True, 1.5, "a", [], "1-", [1, 1.0]):
        with pytest.raises(ValueError):
            seeds_of(wrong, "seeds")


def test_axes_of_models_come_first():
    found = grid.axes({"call": {"height": [1, 2]}, "model": ["a", "b"]}, {}, None, "")
    assert [axis.name for axis in found] == ["model", "call.height"]
    assert list(grid.points(found))[:2] == [
        {"model": "a", "call.height": 1}, {"model": "a", "call.height": 2}
    ]  # fmt: skip
