import math
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffusers_ext.sampling.npnet.keys import export_official, read_official
from diffusers_ext.sampling.npnet.network import NPNetModel
from tests.sampling.npnet.tiny import CONFIG, inputs, network

SETTINGS = dict(svd_heads=4, text_tokens=5, text_width=6)  # what shapes of tensors do not say


@pytest.fixture
def published(tmp_path):
    """A network and its official file."""
    model = network()
    export_official(model, tmp_path / "sdxl.pth")
    return model, tmp_path / "sdxl.pth"


def official(path):
    return torch.load(path, weights_only=True)


def same(loaded, model):
    x, text = inputs()
    assert not loaded.training
    assert torch.equal(loaded.requires_grad_(False)(x, text), model(x, text))


def flat(state, text):
    names = {"embeeding": text}
    tensors = {"alpha": state["alpha"], "beta": state["beta"]}
    for part in ("unet_svd", "unet_embedding", "embeeding"):
        tensors |= {f"{names.get(part, part)}.{k}": v for k, v in state[part].items()}
    return tensors


def test_the_official_layout_comes_back(published):
    model, path = published
    loaded = read_official(path, **SETTINGS)
    same(loaded, model)
    sizes = {k: list(v) if isinstance(v, tuple) else v for k, v in CONFIG.items()}
    assert {
        k: list(v) if isinstance(v, tuple) else v for k, v in loaded.config.items() if k in sizes
    } == sizes | {"sample_size": [8, 8]}


def test_the_official_layout_has_the_published_names(published):
    _, path = published
    state = official(path)
    assert list(state) == ["unet_svd", "unet_embedding", "embeeding", "alpha", "beta"]
    assert state["embeeding"].keys() == {"linear.weight", "linear.bias"}
    assert {"mlp3.0.weight", "mlp4.2.bias", "attention.qkv.weight", "bn.running_var"} <= state[
        "unet_svd"
    ].keys()
    swin = state["unet_embedding"].keys()
    assert {"upconv.weight", "downconv.bias", "swin.head.fc.weight", "swin.patch_embed.norm.bias"} <= swin
    block = {"attn.qkv.weight", "attn.relative_position_bias_table", "mlp.fc1.weight", "norm2.bias"}
    assert {f"swin.layers.0.blocks.1.{name}" for name in block} <= swin
    assert "swin.layers.1.downsample.reduction.weight" in swin
    assert not any(name.endswith(("mask", "offsets")) for name in swin)
    assert state["alpha"].shape == (1,)


@pytest.mark.parametrize("text", ["embeeding", "text_embedding"])
def test_both_mirrors_are_read(published, text, tmp_path):
    model, path = published
    tensors = flat(official(path), text)
    save_file(tensors, tmp_path / "mirror.safetensors")
    same(read_official(tmp_path / "mirror.safetensors", **SETTINGS), model)


def test_the_flat_layout_is_written_as_the_mirror_has_it(published, tmp_path):
    model, path = published
    export_official(model, tmp_path / "flat.safetensors")
    wanted, got = flat(official(path), "embeeding"), load_file(tmp_path / "flat.safetensors")
    assert got.keys() == wanted.keys()
    assert all(torch.equal(got[k], wanted[k]) for k in got)
    same(read_official(tmp_path / "flat.safetensors", **SETTINGS), model)


def test_scalars_and_half_precision_are_read(published, tmp_path):
    _, path = published
    state = official(path)
    state |= {"alpha": 0.5, "beta": torch.tensor(0.7)}
    state["unet_svd"] = {k: v.half() for k, v in state["unet_svd"].items()}
    torch.save(state, tmp_path / "half.pth")
    loaded = read_official(tmp_path / "half.pth", **SETTINGS)
    assert loaded.dtype == torch.float32 and loaded.alpha.item() == 0.5
    assert loaded.beta.shape == (1,)


def test_files_of_older_timm_are_read(published, tmp_path):
    """They count merges with the stage before, keep buffers, and have a classifier of another name."""
    model, path = published
    state = official(path)
    swin = state["unet_embedding"]
    old = {
        k.replace("layers.1.downsample", "layers.0.downsample").replace("head.fc", "head"): v
        for k, v in swin.items()
    }
    old["swin.layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(16, 16, dtype=torch.long)
    old["swin.layers.0.blocks.1.attn_mask"] = torch.zeros(4, 16, 16)
    torch.save(state | {"unet_embedding": old}, tmp_path / "old.pth")
    same(read_official(tmp_path / "old.pth", **SETTINGS), model)


def test_an_attention_that_was_never_trained_is_noticed(tmp_path):
    model = network()
    fresh = NPNetModel(**CONFIG).svd.attention
    bound = 1 / math.sqrt(16)
    assert all(p.abs().max() <= bound for p in fresh.parameters())
    model.svd.attention.load_state_dict(fresh.half().float().state_dict())
    export_official(model, tmp_path / "untrained.pth")
    with pytest.warns(UserWarning, match="NPNet untrained.pth looks untrained.*svd_attention=False"):
        read_official(tmp_path / "untrained.pth", **SETTINGS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_official(tmp_path / "untrained.pth", **SETTINGS, svd_attention=False)
        export_official(network(), tmp_path / "trained.pth")
        read_official(tmp_path / "trained.pth", **SETTINGS)


def test_pickled_code_is_refused(published, tmp_path):
    model, _ = published
    torch.save(model, tmp_path / "all.pth")
    with pytest.raises(
        ValueError, match=r"tensors only, .*all.pth.* could run code; .* safetensors.torch.save_file"
    ):
        read_official(tmp_path / "all.pth")


def test_files_that_are_no_network_are_refused(published, tmp_path):
    _, path = published
    with pytest.raises(FileNotFoundError, match="is none; check the path"):
        read_official(tmp_path / "missing.pth")
    (tmp_path / "text.safetensors").write_text("no tensors")
    with pytest.raises(ValueError, match="cannot be read as weights of an NPNet"):
        read_official(tmp_path / "text.safetensors")
    (tmp_path / "cut.pth").write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ValueError, match="cannot be read as weights of an NPNet"):
        read_official(tmp_path / "cut.pth")
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="must hold an NPNet, and it lacks"):
        read_official(tmp_path / "other.pth")
    torch.save([torch.zeros(2)], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="must hold an NPNet"):
        read_official(tmp_path / "list.pth")


def test_missing_unknown_and_misshapen_tensors_are_named(published, tmp_path):
    _, path = published
    state = official(path)
    del state["unet_svd"]["mlp4.2.bias"]
    torch.save(state, tmp_path / "short.pth")
    with pytest.raises(ValueError, match=r"1 are missing.*svd.mlp4.2.bias"):
        read_official(tmp_path / "short.pth", **SETTINGS)
    with pytest.raises(ValueError, match=r"another shape.*text.linear.weight"):
        read_official(path, svd_heads=4, text_tokens=4, text_width=6)


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"fold": (1, 4), "sample_size": (16, 4)}, r"fold of .1, 4. for 4 channels; use save_pretrained"),
        ({"swin_layout": "spatial"}, "swin_layout published, got spatial; use save_pretrained"),
    ],
)
def test_settings_that_the_layout_cannot_express_are_refused(config, match, tmp_path):
    with pytest.raises(ValueError, match=match):
        export_official(network(**config), tmp_path / "x.pth")
    assert not list(tmp_path.iterdir())
