import pytest
import torch
from transformers import SwinConfig, SwinModel

from diffusers_ext.sampling.npnet.swin import Swin, join, shift_mask, split
from tests.close import alike

# the official one, and a small one whose windows are shifted in both stages
SIZES = {
    "tiny": dict(size=224, patch=4, window=7, width=96, depths=(2, 2, 6, 2), heads=(3, 6, 12, 24)),
    "small": dict(size=24, patch=2, window=3, width=8, depths=(2, 3), heads=(1, 4)),
}


def transformers_swin(size, patch, window, width, depths, heads):
    """The Swin of transformers with random weights, biases included."""
    config = SwinConfig(
        image_size=size,
        patch_size=patch,
        window_size=window,
        embed_dim=width,
        depths=list(depths),
        num_heads=list(heads),
    )
    torch.manual_seed(0)
    model = SwinModel(config, add_pooling_layer=False).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def renamed(theirs, depths):
    """Weights of the Swin of transformers by the names of timm."""
    s = theirs.state_dict()
    names = {
        "patch_embed.proj": "embeddings.patch_embeddings.projection",
        "patch_embed.norm": "embeddings.norm",
    }
    names["norm"] = "layernorm"
    ours = {}
    for i, depth in enumerate(depths):
        for j in range(depth):
            block, old = f"layers.{i}.blocks.{j}", f"encoder.layers.{i}.blocks.{j}"
            names |= {f"{block}.norm1": f"{old}.layernorm_before", f"{block}.norm2": f"{old}.layernorm_after"}
            names |= {f"{block}.mlp.{fc}": f"{old}.mlp.{fc}" for fc in ("fc1", "fc2")}
            names[f"{block}.attn.proj"] = f"{old}.attention.o_proj"
            for kind in ("weight", "bias"):
                parts = [s[f"{old}.attention.{x}_proj.{kind}"] for x in "qkv"]
                ours[f"{block}.attn.qkv.{kind}"] = torch.cat(parts)
            table = "relative_position_bias_table"
            ours[f"{block}.attn.{table}"] = s[f"{old}.attention.relative_position_bias.{table}"]
        if i:
            names[f"layers.{i}.downsample.norm"] = f"encoder.layers.{i - 1}.downsample.norm"
            reduction = f"encoder.layers.{i - 1}.downsample.reduction.weight"
            ours[f"layers.{i}.downsample.reduction.weight"] = s[reduction]
    return ours | {f"{new}.{k}": s[f"{old}.{k}"] for new, old in names.items() for k in ("weight", "bias")}


@pytest.mark.parametrize("name", SIZES)
@torch.no_grad()
def test_it_equals_the_swin_of_transformers(name):
    size = SIZES[name]
    theirs, ours = transformers_swin(**size), Swin(**size).eval()
    ours.load_state_dict(renamed(theirs, size["depths"]))
    images = torch.randn(2, 3, size["size"], size["size"])
    got, wanted = ours(images), theirs(images).last_hidden_state
    assert got.shape == (2, ours.side, ours.side, size["width"] << (len(size["depths"]) - 1))
    alike(got.flatten(1, 2), wanted)
    assert (got.flatten(1, 2) - wanted).abs().max() < 1e-5


@torch.no_grad()
def test_windows_larger_than_the_map_are_cut_down():
    size = dict(size=16, patch=2, width=8, depths=(2,), heads=(2,))
    large, fitting = Swin(window=11, **size), Swin(window=8, **size)
    assert large.layers[0].blocks[1].shift == 0
    fitting.load_state_dict(large.state_dict())
    images = torch.randn(1, 3, 16, 16)
    assert torch.equal(large(images), fitting(images))


def test_windows_split_and_join():
    x = torch.arange(2 * 4 * 6 * 3).view(2, 4, 6, 3)
    windows = split(x, 2)
    assert windows.shape == (2, 6, 4, 3)
    assert torch.equal(windows[0, 1], torch.stack([x[0, 0, 2], x[0, 0, 3], x[0, 1, 2], x[0, 1, 3]]))
    assert torch.equal(join(windows, 2, x.shape), x)


def test_a_shift_hides_tokens_of_the_opposite_edge():
    """The oracle moves each token back to its place and asks whether both are on one side of an edge."""
    side, window, shift = 6, 3, 1
    mask = shift_mask(side, window, shift)
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    wraps = torch.stack([(rows + shift) // side, (columns + shift) // side], -1)[None]
    parts = split(wraps, window)[0]
    apart = (parts[:, :, None] != parts[:, None]).any(-1)
    assert apart.any() and torch.equal(mask != 0, apart)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"size": 22}, "divisible by 4, got .* and 22"),
        ({"heads": (2,)}, "got .2. and 24"),
        ({"window": 5}, "5 on 12 x 12"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(change, match):
    with pytest.raises(ValueError, match=match):
        Swin(**SIZES["small"] | change)
