"""Head sets: what they map, their file and card, how SoftPAG takes them, and other models."""

import json

import pytest
import torch

import diffusers_ext as dx
from diffusers_ext.errors import MethodError
from diffusers_ext.processors.head_set import Pick, facts_of
from diffusers_ext.session.summary import summary
from diffusers_ext.settings.methods import as_dict, build

from ..hosts import built

FIRST, SECOND = "transformer_blocks.0.attn", "transformer_blocks.1.attn"


def facts(target):
    """What a search writes of a pipeline or a bare denoiser."""
    return {c or "transformer": facts_of(kind, sites) for c, kind, _, sites, _ in summary(target).denoisers}


def found(target, *picks, **more):
    picks = picks or (Pick(SECOND, 2, 0.9), Pick(FIRST, 1, 0.8), Pick(SECOND, 0, 0.7, 2))
    return dx.HeadSet(picks, model="tiny-sd3", denoisers=facts(target), **more)


def test_it_maps_modules_to_head_numbers_or_to_strengths():
    heads = found(built("sd3")[1])
    assert heads == {SECOND: [0, 2], FIRST: [1]} and list(heads) == [SECOND, FIRST] and len(heads) == 2
    assert heads.best(1) == {SECOND: [2]} and "missing" not in heads
    own = dx.HeadSet((Pick(FIRST, 1, strength=0.25), Pick(FIRST, 0, strength=1.0)))
    assert own == {FIRST: {0: 1.0, 1: 0.25}}
    with pytest.raises(MethodError, match="3 heads, got best\\(4\\)"):
        heads.best(4)


def test_a_file_holds_all_of_it(tmp_path):
    more = dict(
        settings={"scale": 3.0, "strength": 0.25},
        alone={FIRST: [None, 0.5]},
        found={"pairs": 20, "rewards": [["redness", 1.0]]},
    )
    heads = found(built("sd3")[1], **more)
    again = dx.HeadSet.load(heads.save(tmp_path / "heads.json"))
    assert vars(again) == vars(heads)


def test_softpag_takes_a_set_its_path_and_a_preset_file(tmp_path):
    tiny, pipe = built("sd3")
    heads = found(pipe)
    file = heads.save(tmp_path / "heads.json")
    tokens = "[tokens]\nedge_px = 16\nframes = 0\ntext = 16\nheight = 32\nwidth = 48\n"
    (tmp_path / "preset.toml").write_text(tokens + '[softpag]\nheads = "heads.json"\nstrength = 1.0\n')
    plain = dx.SoftPAG(heads=dict(heads), strength=1.0)
    with dx.apply(pipe, plain):
        wanted = tiny.run(pipe)
    ways = [
        dx.SoftPAG(heads=heads, strength=1.0),
        dx.SoftPAG(heads=str(file), strength=1.0),
        dx.SoftPAG(heads=file, strength=1.0),
        *build(["softpag"], [f"heads={file}", "strength=1"]),
        dx.preset(str(tmp_path / "preset.toml"), "softpag"),
    ]
    for method in ways:
        with dx.apply(pipe, method) as session:
            assert torch.equal(tiny.run(pipe), wanted)
        assert as_dict(method) == as_dict(plain)
        json.dumps(session.report().to_dict())
    packed = dx.SoftPAG(heads=[heads, {FIRST: [3]}], strength=1.0)
    assert isinstance(packed.heads[0], dx.HeadSet) and as_dict(packed)["heads"][1] == {FIRST: [3]}


def test_order_does_not_count_nothing_changes_at_zero_and_an_empty_set_is_refused():
    tiny, pipe = built("sd3")
    stock = tiny.run(pipe)
    heads = found(pipe)
    turned = found(pipe, *reversed(heads.picks))
    pictures = []
    for each in (heads, turned):
        with dx.apply(pipe, dx.SoftPAG(heads=each, strength=1.0)):
            pictures.append(tiny.run(pipe))
    assert torch.equal(*pictures) and not torch.equal(pictures[0], stock)
    off = found(pipe, *(pick._replace(strength=0.0) for pick in heads.picks))
    with dx.apply(pipe, dx.SoftPAG(heads=off, strength=1.0)) as session:
        assert torch.equal(tiny.run(pipe), stock)
    assert session.report().extra_passes == 0
    with pytest.raises(MethodError, match="an empty head set, which would change nothing"):
        dx.apply(pipe, dx.SoftPAG(heads=dx.HeadSet((), denoisers=facts(pipe)), strength=1.0))


def test_a_set_of_the_bare_denoiser_and_of_its_pipeline_are_the_same():
    _, pipe = built("sd3")
    for source in (pipe, pipe.transformer):
        for target in (pipe, pipe.transformer):
            dx.apply(target, dx.SoftPAG(heads=found(source), strength=1.0)).close()


@pytest.mark.parametrize("other", ["flux", "sd", "sd3.5", "wan2.2"])
def test_another_model_is_refused_with_both_names_and_nothing_changes(other):
    heads, pipe = found(built("sd3")[1]), built(other)[1]
    component = "unet" if other == "sd" else "transformer"
    why = rf"head set of tiny-sd3 \(SD3Transformer2DModel with .*, but this pipeline has a {component} with "
    before = {
        name: m.processor for name, m in getattr(pipe, component).named_modules() if hasattr(m, "processor")
    }
    with pytest.raises(MethodError, match=why + rf".*the nearest to {SECOND} are {component}(_2)?\."):
        dx.apply(pipe, dx.SoftPAG(heads=heads, strength=1.0))
    after = {
        name: m.processor for name, m in getattr(pipe, component).named_modules() if hasattr(m, "processor")
    }
    assert after == before


FILES = {
    "cannot be read": None,
    "is no JSON": "{",
    "its format is not": '{"heads": {}}',
    "is damaged \\('picks'\\)": '{"format": "diffusers_ext head set 1"}',
    "is damaged \\(head takes a whole number": json.dumps(
        {"format": "diffusers_ext head set 1", "picks": [{"path": "a", "head": "b"}]}
    ),
    "is damaged \\(denoisers takes": json.dumps(
        {"format": "diffusers_ext head set 1", "picks": [], "denoisers": [1]}
    ),
    "unexpected keyword argument 'more'": json.dumps(
        {"format": "diffusers_ext head set 1", "picks": [], "more": 1}
    ),
}


@pytest.mark.parametrize("why", FILES)
def test_files_that_are_no_head_set_are_refused(tmp_path, why):
    file = tmp_path / "heads.json"
    if FILES[why] is not None:
        file.write_text(FILES[why])
    with pytest.raises(MethodError, match=why):
        dx.SoftPAG(heads=str(file))


def test_the_card_shows_how_the_set_is_used():
    _, pipe = built("sd3")
    heads = found(pipe, settings={"scale": 3.0, "strength": 0.25})
    card = heads.card("someone/heads")
    assert "base_model" not in card and f"| 1 | `{SECOND}` | 2 | 0.9000 |" in card
    code = card.split("```python\n")[1].split("```")[0]
    names = {"heads": heads, "pipe": pipe}
    exec("\n".join(line for line in code.splitlines() if "hub" not in line), names)
    with names["session"] as session:
        assert session.methods == (dx.SoftPAG(heads=heads, scale=3.0, strength=0.25),)


def test_push_to_hub_uploads_set_and_card(monkeypatch):
    """Only the two calls of the network are replaced; what they would send is read from the folder."""
    from huggingface_hub import HfApi, RepoUrl

    sent = {}

    def upload(self, *, repo_id, folder_path, commit_message):
        sent.update(
            {file.name: file.read_text() for file in __import__("pathlib").Path(folder_path).iterdir()}
        )
        return f"https://huggingface.co/{repo_id}/commit/1"

    monkeypatch.setattr(
        HfApi, "create_repo", lambda self, repo_id, **_: RepoUrl(f"https://huggingface.co/me/{repo_id}")
    )
    monkeypatch.setattr(HfApi, "upload_folder", upload)
    heads = found(built("sd3")[1])
    assert heads.push_to_hub("heads") == "https://huggingface.co/me/heads/commit/1"
    assert sorted(sent) == ["README.md", "heads.json"] and "me/heads" in sent["README.md"]
    assert json.loads(sent["heads.json"])["picks"][0]["path"] == SECOND
