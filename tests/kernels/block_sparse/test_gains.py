"""When a plan pays: costs against committed times and against the cycles of a compiled kernel."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import diffusers_ext as dx
from diffusers_ext.kernels.block_sparse import gains
from diffusers_ext.kernels.block_sparse.gains import COSTS, MARGIN, Costs, device_class, no_gain
from diffusers_ext.kernels.masks.disk import Disk
from diffusers_ext.kernels.masks.rule import Kind
from diffusers_ext.kernels.plan.plan import PlanStats
from diffusers_ext.kernels.plan.spec import RulePlanSpec
from diffusers_ext.models.presets import shipped

COMPILED = Path(__file__).parents[3] / "bench/results/compiled.json"
STATS = PlanStats(128, 128, 1 << 20, 1 << 20, 0, 1 << 20, 1 << 20, 0, 0)
BLOCKS = (1 << 13) ** 2


def plan(cost, full_share, kind=Kind.DISK, form=""):
    """A plan of a million tokens in raster order that visits a share of the blocks."""
    visited = round(cost * BLOCKS)
    stats = replace(STATS, visited=visited, full=round(visited * full_share))
    facts = dict(computed="tables" not in form, block_k=64 if "halves" in form else 128)
    return SimpleNamespace(stats=stats, kind=kind, in_raster=True, **facts)


@pytest.mark.parametrize("name, form, keys", [("triton", "computed", 128), ("triton tables", "tables", 64)])
def test_costs_on_hopper_are_those_of_the_cycles_of_the_compiled_kernels(name, form, keys):
    """A tile of 128 x 64 takes its cycles at 1.75 GHz on each of 132 processors, 0.88 of the time."""
    rows = {r["rule"]: r for r in json.loads(COMPILED.read_text())["rows"] if chosen(r, form)}
    rates, full = COSTS[name, "9.0"], []
    for rule, row in rows.items():
        assert row["keys"] == keys
        cycles = 1140 + 2 * row["full"]
        full.append(631e12 / (4 * 128 * 64 * 128 * 132 * 1.75e9 / cycles * 0.88))
        partial = 1 + 3.2 * (row["partial"] - row["full"]) / cycles
        assert partial == pytest.approx(getattr(rates, rule), rel=0.06)
    assert (
        full == pytest.approx([rates.full] * len(full), rel=0.04) and {"disk", "box", "band"} <= rows.keys()
    )


def test_heads_of_64_need_no_rows_of_their_own():
    """SD3's irregular plans pay by the cycles of their own kernel, in which products take half as many."""
    counted = [row for row in json.loads(COMPILED.read_text())["rows"] if row["capability"] == 9.0]
    rows = {(row["head_dim"], row["rule"], row["form"]): row for row in counted}

    def over_dense(head_dim, form):
        """Return FULL and PARTIAL over dense attention in the style of the kernel."""
        row, dense = rows[head_dim, "box", form], rows[head_dim, "none", "dense"]
        products = 1140 - (512 if head_dim == 64 else 0)
        full = products + 2 * row["full"]
        checked = full + 3.2 * (row["partial"] - row["full"])
        return full / (products + 2 * dense["full"]), checked / (products + 2 * dense["full"])

    rates = COSTS["triton", "9.0"]
    lead = rates.full / over_dense(128, "computed")[0]  # of cuDNN
    full, checked = (lead * each for each in over_dense(64, "irregular"))
    assert rates.full < full < checked < 2.5
    for model in ("sd3", "sd3.5", "sd3.5-medium"):
        tokens = shipped()[model].tokens.grid({})
        spec = dx.preset(model, "gna").plan_spec(tokens.shape, tokens.text, text_rows=False)
        visited = spec.stats.full_share * full + (1 - spec.stats.full_share) * checked
        share = spec.stats.cost * visited + rates.gathers / spec.stats.tokens
        assert 0.5 < share < 0.65 and no_gain(spec, "triton", "9.0") is None


def chosen(row, form):
    return row["capability"] == 9.0 and row["head_dim"] == 128 and row["form"] == form and row["ok"]


@pytest.mark.parametrize("kind", [Kind.NONE, Kind.DISK, Kind.BOX, Kind.BAND, Kind.LUT])
@pytest.mark.parametrize("full_share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("backend, device", COSTS)
def test_a_plan_is_run_where_its_blocks_take_less_time(backend, device, full_share, kind):
    rates = COSTS[backend, device]
    partial = rates.partial(kind)
    even = 1 / (rates.full * (full_share + (1 - full_share) * partial)) / MARGIN
    name, _, form = backend.partition(" ")
    assert no_gain(plan(0.99 * even, full_share, kind, form), name, device) is None
    why = no_gain(plan(1.01 * even, full_share, kind, form), name, device)
    assert why.startswith("no gain expected, the plan visits") and why.endswith(f"({rates.source})")
    assert partial == max(rates.none, rates.disk, rates.box, rates.band) if kind == Kind.LUT else partial >= 1


def test_order_costs_where_tokens_are_few():
    """At 4096 tokens it takes a fourth of the time of dense attention, and at a million nothing."""
    spec = RulePlanSpec(Disk(8), (1, 64, 64), 0, 128, 128, (1, 8, 16), (1, 8, 16))
    assert spec.computed and not replace(spec, grid=(1, 63, 64)).computed
    moved = gains.share_of_dense(spec, "triton", "9.0")
    rates = COSTS["triton", "9.0"]
    assert moved - rates.full * spec.stats.effective_cost(rates.disk) == pytest.approx(1000 / 4096)
    assert spec.in_raster is False and replace(spec, q_tile=None, k_tile=None).in_raster is True


def test_a_gpu_takes_the_costs_of_its_capability(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for capability, name in {(8, 6): "8.0", (9, 0): "9.0", (10, 3): "10.0", (12, 0): "8.0"}.items():
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_, found=capability: found)
        assert device_class() == device_class("cuda:0") == device_class(torch.device("cuda")) == name


def test_devices_without_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert (device_class(), device_class("H200"), device_class("cpu"), device_class("mps")) == (
        "9.0", "9.0", "cpu", "cpu",
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"one of cpu, a100, .*got 'cuda', and there is none here"):
        device_class("cuda")
    with pytest.raises(ValueError, match=r"got 'rtx', and it is none of them; leave it out for H100/H200"):
        device_class("rtx")


def test_what_is_untimed_has_the_costs_of_a_cpu():
    assert gains.costs("reference", "9.0") == COSTS["reference", "cpu"]
    assert gains.costs("triton", "cpu") == COSTS["triton", gains.USUAL]
    assert all(isinstance(rates, Costs) and rates.source for rates in COSTS.values())
