"""CLEAR on several processes against one process, on CPU through gloo."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F

import diffusers_ext as dx
from diffusers_ext.parallel import patch_parallel
from diffusers_ext.parallel.strips import cut
from tests import needs
from tests.close import alike as close
from tests.kernels import oracles
from tests.parallel.cases import CASES, LAYERS, RANKS, picture, work
from tests.processors.masked import Instead, attention
from tests.tiny_models import flux, sd3

pytestmark = needs.processes
EXACT = [name for name, case in CASES.items() if case.text_merge == "exact"]
MEAN = [name for name in CASES if name not in EXACT]
CLEAR = dx.CLEAR(radius=2, backend="reference")


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """Return what each rank found; processes fork off one that has imported everything."""
    folder = tmp_path_factory.mktemp("ranks")
    mp.get_context("forkserver").set_forkserver_preload(["tests.parallel.cases"])
    mp.start_processes(work, (str(folder),), RANKS, start_method="forkserver")
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(RANKS)]


@torch.no_grad()
@pytest.mark.parametrize("name", EXACT)
def test_strips_give_what_one_process_gives(answers, name):
    case, model = CASES[name], flux.transformer(**LAYERS)
    with dx.apply(model, case.clear):
        wanted = model(**case.inputs())[0]
    found = [a[name] for a in answers if name in a]
    assert len(found) == case.ranks and all(torch.equal(x, found[0]) for x in found)
    close(found[0], wanted)


@torch.no_grad()
@pytest.mark.parametrize("name", MEAN)
def test_the_mean_is_the_approximation_of_the_paper(answers, name):
    """Against one process whose text rows average over strips, each with all of the text."""
    case = CASES[name]

    def attend(q, k, v, mask, layout):
        out = attention(q, k, v, oracles.disk((1, case.rows, case.width), case.radius), layout)
        texts = []
        for first, last in cut(case.rows, case.ranks):
            start = layout.vision.start
            own = [*range(start), *range(start + first * case.width, start + last * case.width)]
            parts = (x.transpose(1, 2) for x in (q[:, layout.text], k[:, own], v[:, own]))
            texts.append(F.scaled_dot_product_attention(*parts).transpose(1, 2))
        return torch.cat([torch.stack(texts).mean(0), out[:, layout.vision]], dim=1)

    model = flux.transformer(**LAYERS)
    with dx.apply(model, Instead(attend)):
        wanted = model(**case.inputs())[0]
    with dx.apply(model, case.clear):
        exact = model(**case.inputs())[0]
    found = [a[name] for a in answers if name in a]
    close(found[0], wanted)
    assert (found[0] - exact).abs().max() > 1e-4


def test_a_complete_pipeline(answers):
    pipe = flux.pipeline(**LAYERS)
    with dx.apply(pipe, CLEAR):
        wanted = picture(pipe)
    for found in answers:
        close(found["pipeline"], wanted)


@torch.no_grad()
def test_the_model_is_left_as_it_was(answers):
    plain = flux.transformer(**LAYERS)(**flux.inputs(height=6))[0]
    for found in answers:
        assert torch.equal(found["plain again"], found["plain"])
        close(found["plain again"], plain)  # another process, with other threads


def test_the_reference_is_taken_where_it_is_asked_for(answers):
    for found in answers:
        assert torch.equal(found["interpreted"], found["not interpreted"])


def test_the_report_has_the_strip_and_the_density_of_the_picture(answers):
    case, model = CASES["several blocks of queries"], flux.transformer(**LAYERS)
    with torch.no_grad(), dx.apply(model, case.clear) as session:
        model(**case.inputs())
    (one, _), (two, _) = (a["several blocks of queries: report"] for a in answers[1:])
    assert one["why"].endswith("strip 1 of 2") and two["why"].endswith("strip 2 of 2")
    assert one["backend"] == "reference" and one["calls"] == 1
    assert one["density"] == session.report().sites[0].density


@pytest.mark.parametrize(
    ("what", "match"),
    [
        ("too few rows", "2 rows of tokens is cut into 1 to 2 strips, got 3; use fewer processes"),
        ("other noise", "given different inputs; pass the same prompt"),
        ("gradients", "no gradients between processes; call the model under torch.no_grad()"),
        ("residuals", "how to cut controlnet_block_samples"),
    ],
)
def test_every_rank_hears_what_is_wrong(answers, what, match):
    assert all(match in found[what] for found in answers)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A process group of this process only."""
    folder = tmp_path_factory.mktemp("alone")
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_without_a_process_group():
    with pytest.raises(dx.MethodError, match=r"init_process_group\(\) first"), patch_parallel(None, CLEAR):
        pass


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize(
    ("method", "error", "match"),
    [
        (dx.SoftPAG(), dx.MethodError, r"got SoftPAG; pass dx.CLEAR"),
        (dx.CLEAR(dense_steps=2), dx.UnsupportedError, "dense_steps=2 needs all of it; set dense_steps=0"),
        (dx.CLEAR(dense_layers=1), dx.UnsupportedError, "dense_layers=1 needs all"),
        (dx.CLEAR(downsample=2), dx.UnsupportedError, "downsample=2 needs all"),
        (dx.CLEAR(reduce="block"), dx.UnsupportedError, "whole tiles reach farther; use reduce='token'"),
        (dx.CLEAR(backend="flex"), dx.UnsupportedError, "log-sum-exp .* use auto, triton or reference"),
    ],
)
def test_methods_that_do_not_fit(method, error, match):
    with pytest.raises(error, match=match), patch_parallel(flux.transformer(), method):
        pass


@pytest.mark.usefixtures("alone")
def test_models_that_do_not_fit():
    model, match = sd3.transformer(), r"SD3Transformer2DModel takes latents .* FLUX.1 is supported"
    before = [m.processor for m in model.modules() if hasattr(m, "processor")]
    with pytest.raises(dx.UnsupportedError, match=match), patch_parallel(model, CLEAR):
        pass
    assert before == [m.processor for m in model.modules() if hasattr(m, "processor")]
    model = flux.transformer(**LAYERS)
    model.transformer_blocks[0].compile()
    with pytest.raises(dx.UnsupportedError, match="compiled blocks"), patch_parallel(model, CLEAR):
        pass


@torch.no_grad()
@pytest.mark.skipif(torch.cuda.is_available(), reason="Triton runs here; the refusal is for machines without")
@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize(
    ("backend", "size", "match"),
    [
        ("triton", {"height": 6}, "clear: Triton kernels need"),
        ("reference", {"height": 2, "width": 2100}, "clear: A plan addresses grids"),
    ],
)
def test_what_cannot_run_is_refused_by_the_method(backend, size, match):
    model = flux.transformer(**LAYERS)
    with patch_parallel(model, dx.CLEAR(2, backend=backend)), pytest.raises(dx.UnsupportedError, match=match):
        model(**flux.inputs(**size))


@pytest.mark.usefixtures("alone")
def test_text_is_merged_in_two_ways():
    with (
        pytest.raises(dx.MethodError, match="exact or mean, got 'sum'"),
        patch_parallel(flux.transformer(), CLEAR, text_merge="sum"),
    ):
        pass


@pytest.mark.usefixtures("alone")
@torch.no_grad()
def test_reference_images_are_refused():
    call = flux.inputs(height=4, width=3)
    call["img_ids"] = torch.cat([call["img_ids"][:6], call["img_ids"][:6]])
    model = flux.transformer(**LAYERS)
    with patch_parallel(model, CLEAR), pytest.raises(dx.UnsupportedError, match="no single grid"):
        model(**call)
