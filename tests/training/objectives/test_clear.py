"""Test distillation for CLEAR with the shipped model as the teacher: loss, updates, resuming, export."""

import copy
import json
import re
import shutil
import warnings
from dataclasses import replace

import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from safetensors.torch import load_file

import diffusers_ext as dx
from diffusers_ext.training import distill
from diffusers_ext.training.checkpoint import save_atomically
from diffusers_ext.training.data import latents
from diffusers_ext.training.fit import Run, fit
from diffusers_ext.training.objectives import clear as objectives
from diffusers_ext.training.objectives.clear import DistilConfig, DistilObjective
from diffusers_ext.training.objectives.flow import encode
from diffusers_ext.zoo import cards, catalogue
from tests.tiny_models import flux

pytestmark = pytest.mark.usefixtures("small_shards")
CLEAR = dx.CLEAR(radius=2, backend="reference")
TINY = DistilConfig(samples=16, batch=4, warmup=0, first=1, log_every=1, evaluate_every=8, long_text=0.0)


@pytest.fixture(scope="module")
def teacher():
    return dx.load("shapes-sd3")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def student(teacher, cache):
    """Make students of the teacher, one at a time, and close them afterwards."""
    made = []

    def make(method=CLEAR, recipe=TINY, folder=cache):
        for one in made:
            one.close()
        made.append(DistilObjective(copy.copy(teacher), method, folder, recipe))
        made[-1].prepare(torch.device("cpu"))
        return made[-1]

    yield make
    for one in made:
        one.close()


def losses(out):
    lines = map(json.loads, (out / "log.jsonl").read_text().splitlines())
    return {(line["step"], "exact" in line): line.get("loss", line.get("exact")) for line in lines}


def attention_outputs(transformer, **call):
    """Record what enters the output projections of image and text, layer by layer, by hooks of torch."""
    seen, hooks = {}, []
    for i, block in enumerate(transformer.transformer_blocks):
        for part, module in (("image", block.attn.to_out[0]), ("text", block.attn.to_add_out)):
            if module is not None:
                keep = lambda _, args, key=(i, part): seen.__setitem__(key, args[0])  # noqa: E731
                hooks.append(module.register_forward_pre_hook(keep))
    velocity = transformer(**call, return_dict=False)[0]
    for hook in hooks:
        hook.remove()
    return velocity, seen


@torch.no_grad()
def test_the_loss_is_that_of_the_paper(student, teacher):
    """Compare with plain calls of both models, with the outputs of attention read by other means."""
    one = student(recipe=replace(TINY, attention_every=2, velocity=0.3, attention=0.7))
    x0, noise, sigma, ids, t5_ids = inputs = one.inputs(0, 0.0)
    context, pooled = encode(teacher, ids, t5_ids)
    s = sigma.view(-1, 1, 1, 1)
    call = dict(hidden_states=(1 - s) * x0 + s * noise, timestep=1000 * sigma)
    call |= dict(encoder_hidden_states=context, pooled_projections=pooled)
    stock = copy.deepcopy(dx.load("shapes-sd3").transformer)
    v_teacher, teachers = attention_outputs(stock, **call)
    with dx.apply(stock, CLEAR):
        v_student, students = attention_outputs(stock, **call)
    squares = []
    for i in (0, 2, 4):
        both = [torch.cat([o[i, "image"], o[i, "text"]], 1) for o in (students, teachers)]
        squares.append(((both[0] - both[1]) ** 2).mean())
    flow = ((v_student - (noise - x0)) ** 2).mean()
    velocity, attention = ((v_student - v_teacher) ** 2).mean(), sum(squares) / 3
    terms = one.terms(*inputs)
    wanted = {"flow": flow, "velocity": velocity, "attention": attention}
    torch.testing.assert_close(terms, wanted, rtol=1e-4, atol=1e-6)
    assert min(terms.values()) > 0.01
    torch.testing.assert_close(one.loss(*inputs), flow + 0.3 * velocity + 0.7 * attention, rtol=1e-4, atol=0)


@torch.no_grad()
def test_a_student_that_sees_all_has_nothing_to_learn_from_its_teacher(student):
    one = student(dx.CLEAR(radius=50, backend="reference"))
    terms = one.terms(*one.inputs(0, 0.0))
    assert terms["velocity"] == 0 and terms["attention"] == 0 and terms["flow"] > 0


def test_only_the_projections_of_the_image_stream_move(student, tmp_path):
    one = student(dx.CLEAR(radius=2, backend="reference", dense_layers=2))
    teachers = {k: p.clone() for k, p in one.teacher.named_parameters()}
    assert fit(one, tmp_path, Run(samples=8))
    moved = {k for k, p in one.pipe.transformer.named_parameters() if not torch.equal(p, teachers[k])}
    assert moved == {
        f"transformer_blocks.{i}.attn.{leaf}.{kind}"
        for i in (2, 3, 4, 5)
        for leaf in ("to_q", "to_k", "to_v", "to_out.0")
        for kind in ("weight", "bias")
    }
    assert all(torch.equal(p, teachers[k]) for k, p in one.teacher.named_parameters())


def test_weights_of_pooled_tokens_learn_too(student, tmp_path):
    one = student(dx.CLEAR(radius=2, downsample=4, backend="reference"))
    pooled = {k for k in one.parameters() if k.startswith("far.")}
    assert len(pooled) == 6
    assert fit(one, tmp_path, Run(samples=8))
    assert all((one.parameters()[k] - 1 / 16).abs().max() > 1e-4 for k in pooled)


def test_learning_brings_the_student_closer(student, tmp_path, monkeypatch):
    monkeypatch.setattr(latents, "SHARD", 128)  # a few pictures would be learned by heart
    one = student(recipe=replace(TINY, samples=96, evaluate_every=10**9), folder=tmp_path / "cache")
    before = one.evaluate()
    assert fit(one, tmp_path)
    after = one.evaluate()
    assert after["velocity"] < 0.8 * before["velocity"] and after["attention"] < 0.8 * before["attention"]


def test_an_interrupted_run_goes_on_to_the_same_losses(student, tmp_path):
    assert fit(student(), tmp_path / "complete")
    assert not fit(student(), tmp_path / "parts", Run(minutes=0))
    assert fit(student(), tmp_path / "parts")
    assert losses(tmp_path / "parts") == losses(tmp_path / "complete")
    assert len(losses(tmp_path / "complete")) == 6


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Write a student with pooled tokens by the command's own function, stopped early."""
    out = tmp_path_factory.mktemp("student")
    before, objectives.DistilConfig = objectives.DistilConfig, lambda: TINY
    distill.run("shapes-sd3", ["radius=2", "downsample=4"], out, Run(minutes=0))
    objectives.DistilConfig = before
    return out


def test_the_student_is_a_stock_pipeline_with_a_card(written):
    cards.verify_weights(written)
    card = json.loads((written / cards.CARD).read_text())
    sums = cards.checksums(cards.weight_files(catalogue.path("shapes-sd3")), catalogue.path("shapes-sd3"))
    file = "transformer/diffusion_pytorch_model.safetensors"
    assert card["teacher"] == {"name": "shapes-sd3", "transformer": sums[file]}
    assert (card["method"]["name"], card["method"]["radius"], card["steps"]) == ("clear", 2, 1)
    assert card["call"] == dict(catalogue.MODELS["shapes-sd3"].call)
    assert {"hours", "hardware", "data"} <= set(card)
    stock, teachers = (load_file(folder / file) for folder in (written, catalogue.path("shapes-sd3")))
    moved = {k for k in stock if not torch.equal(stock[k], teachers[k])}
    assert moved and all(".attn.to_" in k and "add" not in k for k in moved)
    others = [{k: v for k, v in s.items() if "encoder" in k or "vae" in k} for s in (card["sha256"], sums)]
    assert others[0] == others[1]


def test_the_student_reloads_and_gives_what_was_trained(written, teacher, cache):
    """Compare the stock class under the folder's preset with a student with the checkpoint's averages."""
    pipe = StableDiffusion3Pipeline.from_pretrained(written)
    pipe.set_progress_bar_config(disable=True)
    method = dx.preset(str(written), "clear")
    assert (method.radius, method.downsample, method.backend) == (2, 4, "reference")
    call = dict(catalogue.MODELS["shapes-sd3"].call) | {"num_inference_steps": 2, "output_type": "np"}

    def picture(pipe):
        return pipe("a red circle", generator=torch.Generator().manual_seed(0), **call).images

    dense = picture(pipe)
    with dx.apply(pipe, method):
        got = picture(pipe)
    one = DistilObjective(copy.copy(teacher), replace(method, weights=None), cache, TINY)
    objectives_state = torch.load(written / "checkpoint.pt", weights_only=True)["average"]
    with torch.no_grad():
        for p, value in zip(one.parameters().values(), objectives_state, strict=True):
            p.copy_(value.half())
    wanted = picture(one.pipe)
    one.close()
    assert abs(got - wanted).max() < 2e-3 < abs(got - dense).max()


def test_the_folder_may_be_moved(written, tmp_path):
    moved = shutil.copytree(written, tmp_path / "moved")
    assert json.loads((moved / "clear.json").read_text())["settings"]["weights"] == distill.POOLED
    assert dx.preset(str(moved), "clear").weights == str(moved / distill.POOLED)


def test_a_folder_belongs_to_one_teacher_method_and_seed(written, tmp_path):
    with pytest.raises(ValueError, match=r"another method, .*'radius': 2.*begin anew with --restart"):
        distill.run("shapes-sd3", ["radius=3"], written)
    with pytest.raises(ValueError, match=r"another seed, 0; choose"):
        distill.run("shapes-sd3", ["radius=2", "downsample=4"], written, Run(seed=1))
    altered = shutil.copytree(catalogue.path("shapes-sd3"), tmp_path / "altered")
    with pytest.raises(ValueError, match=r"another teacher, .*'name': 'shapes-sd3'"):
        distill.run(str(altered), ["radius=2", "downsample=4"], written)


def test_a_run_of_another_model_is_left_alone(tmp_path):
    save_atomically({"identity": {"seed": 0, "autoencoder": "0123"}}, tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match="another autoencoder, 0123; choose another --out"):
        distill.run("shapes-sd3", ["radius=2"], tmp_path)
    assert [f.name for f in tmp_path.iterdir()] == ["checkpoint.pt"]


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (("--teacher", "shapes-sd4"), "unknown model 'shapes-sd4'"),
        (("--teacher", "someone/sd3.5"), "shapes world .* got a model of the Hub"),
        (("--set", "radius=11"), "radius of 11 covers the grid of 8 x 8 .* nothing to distil"),
        (("--set", "radius=2", "--set", "reduce=block"), "radius of 2 in whole tiles .* use reduce=token"),
        (("--set", "radius=2", "--set", "downsample=3"), "downsample=3 needs rows and columns"),
        (("--set", "dense_steps=2"), "learns all steps alike, got dense_steps=2"),
        (("--set", "backend=flex"), "not for training"),
        (("--set", "radius=0"), "radius .* 1 .*tokens?, got 0"),
        (("--set", "widht=2"), "clear has no setting 'widht'"),
    ],
)
def test_bad_input(refused, tmp_path, words, match):
    assert re.search(match, refused("train", "clear", "--out", tmp_path, *words))


def test_other_models_take_neither_teacher_nor_settings(refused, tmp_path):
    assert "for 'train clear' and 'train npnet', got them for 'shapes-sd3'" in refused(
        "train", "shapes-sd3", "--teacher", "shapes-sd", "--out", tmp_path
    )


def test_teachers_outside_the_shapes_world_are_refused(saved_model, tmp_path):
    flux.pipeline().save_pretrained(tmp_path / "flux")
    for folder, name in ((saved_model, "StableDiffusion3Pipeline"), (tmp_path / "flux", "FluxPipeline")):
        with pytest.raises(ValueError, match=f"shapes-sd3 or a folder .* got a {name}"):
            distill.run(str(folder), ["radius=2"], tmp_path / "out")


def test_a_teacher_with_the_card_of_another_project_is_refused(tmp_path):
    folder = shutil.copytree(catalogue.path("shapes-sd3"), tmp_path / "teacher")
    (folder / cards.CARD).write_text("{}")
    with pytest.raises(ValueError, match=r"or a folder that .* wrote, got a StableDiffusion3Pipeline"):
        distill.open_teacher(str(folder))


def test_opening_a_teacher_says_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        _, pipe, _ = distill.open_teacher("shapes-sd3")
    assert pipe.transformer.dtype == torch.float32


def test_a_teacher_is_not_written_over(written):
    with pytest.raises(ValueError, match="written over its teacher"):
        distill.run(str(written), ["radius=2"], written)
