"""Recipes: what is written is read back, and everything else gets a sentence."""

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch

import diffusers_ext as dx
from diffusers_ext.pipelines.recipe import Recipe, from_dict
from diffusers_ext.pipelines.recipe_file import read, write
from diffusers_ext.rewards.names import REWARDS, name_of, named
from diffusers_ext.settings.methods import method_class
from diffusers_ext.settings.registry import METHODS, SAMPLERS
from diffusers_ext.settings.samplers import named as named_sampler

from ..sampling.npnet.tiny import network
from ..sampling.searches import redness

ARGUMENTS = {"gna": {"window": (3, 3)}}


def again(recipe, tmp_path):
    return read(write(recipe, tmp_path / "recipe.json"))


@pytest.mark.parametrize("name", METHODS)
def test_every_method_survives(name, tmp_path):
    method = method_class(name)(**ARGUMENTS.get(name, {}))
    (found,) = again(Recipe("shapes-sd", (method,)), tmp_path).methods
    assert json.dumps(asdict(found), default=str) == json.dumps(asdict(method), default=str)
    assert type(found) is type(method)


def test_settings_that_are_not_plain_survive(tmp_path):
    methods = (
        dx.SoftPAG(heads=[{"a.attn1": [0, 2]}, {"b.attn1": None}], strength=[0.5, 1.0]),
        dx.RectifiedSparse(keep=None, p_remaining=0.5, dense_steps=3),
        dx.GNA((2, 3, 5), dense_steps=0.25),
    )
    found = again(Recipe("shapes-sd", methods, call={"guidance_scale": 4.5, "height": 64}), tmp_path)
    assert list(map(asdict, found.methods[:2])) == list(map(asdict, methods[:2]))
    assert tuple(found.methods[2].window) == (2, 3, 5) and found.methods[2].dense_steps == 0.25
    assert found.methods[1].dense_steps == 3 and isinstance(found.methods[1].dense_steps, int)
    assert found.call == {"guidance_scale": 4.5, "height": 64}


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "npnet"])
def test_every_sampler_survives(name, tmp_path):
    cls = named_sampler(name).cls
    made = cls(
        rewards=[(dx.rewards.ShapesCLIP(), 0.5)], micro_batch=2, budget=90, refine=dx.ReNO(iterations=3)
    )
    found = again(Recipe("shapes-sd", sampler=made), tmp_path).sampler
    assert type(found) is cls and found.refine.iterations == 3
    assert (found.micro_batch, found.budget) == (2, 90)
    ((reward, weight),) = found.rewards
    assert type(reward) is dx.rewards.ShapesCLIP and weight == 0.5


def test_a_network_is_kept_by_its_path(tmp_path, monkeypatch):
    network().save_pretrained(tmp_path / "net")
    monkeypatch.chdir(tmp_path)
    npnet = dx.NPNet.from_pretrained("net", renorm="std")
    sampler = dx.BestOfN(n=2, noise=npnet, rewards=dx.rewards.ShapesCLIP())
    recipe = Recipe("shapes-sd", sampler=sampler)
    assert recipe.to_dict()["sampler"]["noise"]["model"] == str(tmp_path / "net")
    found = again(recipe, tmp_path).sampler.noise
    assert found.renorm == "std"
    for one, two in zip(found.model.parameters(), npnet.model.parameters(), strict=True):
        assert torch.equal(one, two)
    with pytest.raises(dx.MethodError, match="names the network of an NPNet by its path"):
        Recipe("shapes-sd", sampler=dx.NPNet(model=network())).to_dict()


def test_a_reward_that_prunes_survives(tmp_path):
    clip = dx.rewards.ShapesCLIP()
    found = again(Recipe("m", sampler=dx.TTSnap(rewards=clip, prune_reward=clip)), tmp_path).sampler
    assert [type(reward) for reward, _ in found.prune_reward] == [dx.rewards.ShapesCLIP]


@pytest.mark.parametrize("name", REWARDS)
def test_every_reward_has_the_name_that_makes_it(name):
    assert name_of(named(name)) == name


@pytest.mark.parametrize(
    "recipe, words",
    [
        (
            Recipe("m", sampler=dx.BestOfN(rewards=redness)),
            "'redness' has no name there; the names are shapes",
        ),
        (
            Recipe("m", sampler=dx.BestOfN(rewards=dx.rewards.CLIPScore("other/model"))),
            "'clip-score' has no name",
        ),
        (Recipe("m", sampler=dx.BestOfN(noise=lambda host, x: x)), "names its samplers, and function has no"),
        (Recipe("m", call={"latents": torch.zeros(1)}), "latents belongs to a single call"),
        (Recipe("m", call={"sigmas": torch.zeros(1)}), "the argument sigmas is a Tensor; save it to a file"),
        (Recipe("m", call={"guidance_scale": float("inf")}), "guidance_scale is inf"),
        (Recipe("m", (type("Own", (dx.SoftPAG,), {})(),)), "Own has no name there; the names are softpag"),
    ],
)
def test_what_a_recipe_cannot_hold_is_refused(recipe, words, tmp_path):
    with pytest.raises(dx.MethodError, match=words):
        write(recipe, tmp_path / "recipe.json")
    assert not list(tmp_path.iterdir())


HEAD = {"recipe": 1, "model": "shapes-sd"}


@pytest.mark.parametrize(
    "data, words",
    [
        ([], r"a recipe is a table of keys and values, got \[\]"),
        ({"model": "m"}, "has its version under the key recipe, got None; write 1"),
        ({"recipe": True, "model": "m"}, "got True"),
        (
            {"recipe": 2, "model": "m", "written_by": "diffusers_ext 9.0", "new": 1},
            r"version 2, written by diffusers_ext 9.0, and diffusers_ext \S+ reads up to 1; update it",
        ),
        ({"recipe": 1}, "needs the name of its model, got None"),
        (HEAD | {"modle": 1}, "a recipe has no 'modle'; nearest is 'model'"),
        (HEAD | {"pipeline": "os.system('x')"}, "pipeline is the name of a class"),
        (HEAD | {"methods": "softpag"}, "methods is a list of tables, got 'softpag'"),
        (HEAD | {"methods": [3]}, "a method is a name, or a table with its name and settings, got 3"),
        (HEAD | {"methods": [{"name": "softpg"}]}, "unknown method 'softpg'; nearest is 'softpag'"),
        (HEAD | {"methods": [{"name": "softpag", "scle": 1}]}, "softpag has no 'scle'; nearest is 'scale'"),
        (HEAD | {"methods": [{"name": "softpag", "scale": "x"}]}, "softpag.scale takes a number, got 'x'"),
        (HEAD | {"methods": [{"name": "softpag", "strength": 2}]}, r"strength must lie in \[0, 1\]"),
        (HEAD | {"sampler": "best-of-8"}, "a sampler is a table with its name, got 'best-of-8'"),
        (HEAD | {"sampler": {"name": "bestof"}}, "unknown sampler 'bestof'; nearest is 'best-of-n'"),
        (HEAD | {"sampler": {"name": "best-of-n", "N": 3}}, "best-of-n has no 'N'"),
        (HEAD | {"sampler": {"name": "best-of-n", "n": 0}}, "BestOfN n must be 1 or more, got 0"),
        (HEAD | {"sampler": {"name": "best-of-n", "rewards": ["clop"]}}, "unknown reward 'clop'"),
        (
            HEAD | {"sampler": {"name": "best-of-n", "rewards": [{"nam": "x"}]}},
            "a reward is a name, or a table",
        ),
        (
            HEAD | {"sampler": {"name": "best-of-n", "rewards": [{"name": "shapes-clip", "weight": -1}]}},
            "must be a finite number above 0, got -1",
        ),
        (HEAD | {"call": [1]}, r"call is a table of arguments, got \[1\]"),
        (HEAD | {"call": {"prompt": "x"}}, "prompt belongs to a single call"),
    ],
)
def test_what_is_no_recipe_gets_one_sentence(data, words, tmp_path):
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(data))
    with pytest.raises(dx.MethodError, match=words) as error:
        read(path)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


def test_broken_files(tmp_path):
    for name, text in (("a.json", "{"), ("a.toml", "= 3"), ("deep.json", "[" * 100000)):
        (tmp_path / name).write_text(text)
        with pytest.raises(dx.MethodError, match="UTF-8"):
            read(tmp_path / name)
    (tmp_path / "b.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(dx.MethodError, match="is no JSON in UTF-8"):
        read(tmp_path / "b.json")
    with pytest.raises(OSError, match="cannot read the recipe"):
        read(tmp_path / "none.json")
    with pytest.raises(FileNotFoundError, match="or a folder with one"):
        read(tmp_path)
    with pytest.raises(dx.MethodError, match=r"written as JSON, got 'a.toml'; name it a.json"):
        write(Recipe("m"), tmp_path / "a.toml")
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        write(Recipe("m"), tmp_path / "no" / "a.json")


def test_toml_by_hand(tmp_path):
    (tmp_path / "recipe.toml").write_text(
        'recipe = 1\nmodel = "shapes-sd"\nmethods = ["nag", {name = "softpag", scale = 2}]\n'
        '[call]\nnum_inference_steps = 4\n[sampler]\nname = "best-of-3"\nrewards = ["shapes-clip"]\n'
    )
    found = read(tmp_path)
    assert found.methods == (dx.NAG(), dx.SoftPAG(scale=2.0)) and found.call == {"num_inference_steps": 4}
    assert found.sampler.n == 3


def test_paths_beside_the_recipe_belong_to_its_folder(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "weights")
    data = HEAD | {"model": "weights", "methods": [{"name": "clear", "downsample": 2, "weights": "far.bin"}]}
    assert from_dict(data, "x", tmp_path).model == str(tmp_path / "weights")
    assert from_dict(data, "x", tmp_path).methods[0].weights == "far.bin"
    (tmp_path / "far.bin").write_bytes(b"")
    assert from_dict(data, "x", tmp_path).methods[0].weights == str(tmp_path / "far.bin")


def seeded():
    return torch.Generator().manual_seed(3)


CALL = {"num_inference_steps": 2, "height": 64, "width": 64}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The folder of a recipe for a model of the zoo, and the picture that it makes."""
    home = tmp_path_factory.mktemp("recipes") / "softpag"
    ours = dx.ImageExtPipeline.from_pretrained("shapes-sd", methods=["softpag"], call=CALL)
    assert ours.methods == (dx.preset("shapes-sd", "softpag"),), "a name has the settings that are known"
    picture = ours("a red circle", generator=seeded(), output_type="np").images
    assert ours.save_pretrained(home) == home
    return home, picture


def test_a_saved_pipeline_is_read_back(written):
    home, picture = written
    assert sorted(p.name for p in home.iterdir()) == ["pipeline.py", "recipe.json"]
    assert json.loads((home / "recipe.json").read_text())["model"] == "shapes-sd"
    for place in (home, home / "recipe.json"):
        ours = dx.ImageExtPipeline.from_pretrained(place)
        made = ours("a red circle", generator=seeded(), output_type="np")
        assert np.array_equal(made.images, picture) and made.report.extra_passes == 2
    assert dx.ImageExtPipeline.from_pretrained(home, methods=[]).methods == ()


def test_diffusers_loads_it_as_a_custom_pipeline(written, tmp_path, monkeypatch):
    from diffusers import DiffusionPipeline, StableDiffusionPipeline

    from diffusers_ext.zoo import catalogue

    monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(tmp_path))
    home, picture = written
    place = str(catalogue.path("shapes-sd"))
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        DiffusionPipeline.from_pretrained(place, custom_pipeline=str(home))
    pipe = DiffusionPipeline.from_pretrained(place, custom_pipeline=str(home), trust_remote_code=True)
    assert isinstance(pipe, StableDiffusionPipeline)
    made = pipe("a red circle", generator=seeded(), output_type="np")
    assert np.array_equal(made.images, picture) and made.report.extra_passes == 2
    assert type(pipe) is not StableDiffusionPipeline, "the stock class keeps its call"
    pipe.save_pretrained(tmp_path / "model")
    stock = DiffusionPipeline.from_pretrained(tmp_path / "model")
    assert type(stock) is StableDiffusionPipeline


def test_a_model_in_the_cache_of_the_hub_keeps_its_name(pipe):
    pipe.register_to_config(
        _name_or_path="/home/me/.cache/huggingface/hub/models--owner--the-name/snapshots/1a"
    )
    assert dx.ImageExtPipeline.from_pretrained(pipe).recipe().model == "owner/the-name"


def test_a_pipeline_without_a_name_has_no_recipe(pipe, tmp_path):
    with pytest.raises(dx.MethodError, match="a recipe names its model"):
        dx.ImageExtPipeline(pipe).save_pretrained(tmp_path / "new")
    assert not list(tmp_path.iterdir())
    assert dx.ImageExtPipeline(pipe, model="owner/name").recipe().model == "owner/name"


def test_a_local_model_is_kept_by_its_absolute_path(saved_model, monkeypatch):
    monkeypatch.chdir(saved_model.parent)
    ours = dx.ImageExtPipeline.from_pretrained(saved_model.name)
    assert ours.recipe().model == str(saved_model.resolve())
    live = dx.ImageExtPipeline.from_pretrained(ours.pipe)
    assert live.recipe().model == str(saved_model.resolve())
