import pytest
import torch
from torch.nn.functional import interpolate

from diffusers_ext.sampling.npnet.network import NPNetModel
from tests.close import alike, close
from tests.sampling.npnet.tiny import CONFIG, inputs, network


def test_a_new_network_returns_its_input():
    torch.manual_seed(0)
    x, text = inputs()
    with torch.no_grad():
        close(NPNetModel(**CONFIG)(x, text), x)


def test_the_branches_are_put_together_as_in_the_paper():
    model = network()
    x, text = inputs()
    scale, shift = model.text.linear(text.flatten(1))[:, :, None, None].chunk(2, 1)
    spread = x.var((1, 2, 3), correction=0, keepdim=True) + 1e-6
    injected = (x - x.mean((1, 2, 3), keepdim=True)) / spread.sqrt() * (1 + scale) + shift
    residual = model.residual(x + injected)
    wanted = model.svd(x) + (2 * torch.sigmoid(model.alpha) - 1) * injected + model.beta * residual
    alike(model(x, text), wanted)


def test_alpha_zero_leaves_the_text_out():
    model = network()
    model.beta.zero_()
    x, text = inputs()
    assert not torch.equal(model(x, text), model(x, text + 1))
    model.alpha.zero_()
    assert torch.equal(model(x, text), model(x, text + 1))
    assert torch.equal(model(x, text), model.svd(x))


def test_beta_weighs_the_residual():
    model = network()
    x, text = inputs()
    made = []
    for beta in (0.0, 1.0, 3.0):
        model.beta.fill_(beta)
        made.append(model(x, text))
    alike(made[2] - made[0], 3 * (made[1] - made[0]), level=2048)
    assert (made[1] - made[0]).abs().max() > 0.1


def test_the_text_acts_on_normalised_noise():
    model = network()
    x, text = inputs()
    alike(model.text(5 * x, text.flatten(1)), model.text(x, text.flatten(1)))
    model.text.linear.weight.zero_()
    assert torch.equal(model.text(x, text.flatten(1)), model.text(x, text.flatten(1) + 1))


def test_features_are_read_as_if_channels_came_first():
    """The published weights need it: rows of the map of features are channels of the convolution."""
    residual = network().residual
    x, _ = inputs()
    features = residual.swin(residual.downconv(interpolate(x, (16, 16))))  # [B, rows, columns, width]
    rows = [interpolate(features[:, i : i + 1], (8, 8)) for i in range(4)]
    wanted = residual.upconv(torch.cat(rows, 1))
    close(residual(x), wanted)
    turned = residual.upconv(interpolate(features.permute(0, 3, 1, 2)[:, :4], (8, 8)))
    assert (residual(x) - turned).abs().max() > 0.01


def test_rows_of_a_batch_have_their_own_text():
    model = network()
    x, text = inputs()
    for i in range(len(x)):
        alike(model(x[i : i + 1], text[i : i + 1])[0], model(x, text)[i])


def test_other_shapes_of_noise_and_channels():
    size = dict(sample_size=(4, 12), in_channels=2, fold=(2, 1), svd_heads=2)
    x, text = inputs(size=(2, 4, 12))
    made = network(**size)(x, text)
    assert made.shape == x.shape and made.dtype == torch.float32


def test_half_noise_and_text_are_computed_in_the_dtype_of_the_network():
    model = network()
    x, text = inputs()
    assert torch.equal(model(x.half(), text.half()), model(x.half().float(), text.half().float()))


@pytest.mark.parametrize("layout", ["published", pytest.param("spatial", marks=pytest.mark.slow)])
def test_it_learns_four_pairs(layout):
    """All branches get gradients; the loss falls to a twentieth of that of the identity."""
    x, text = inputs(4)
    target = network(1, swin_layout=layout)(x, text)
    torch.manual_seed(0)
    model = NPNetModel(**CONFIG, swin_layout=layout).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(200):
        loss = (model(x, text) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    assert loss < 0.05 * (x - target).square().mean()


def test_spatial_features_stay_at_their_places():
    """A convolution of the features at each place, beside the places of the noise."""
    residual = network(swin_layout="spatial").residual
    x, _ = inputs()
    features = residual.swin(residual.downconv(interpolate(x, (16, 16))))
    wanted = features @ residual.upconv.weight[:, :, 0, 0].T + residual.upconv.bias
    close(residual(x), wanted.permute(0, 3, 1, 2).repeat_interleave(2, 2).repeat_interleave(2, 3))
    with pytest.raises(ValueError, match="published, spatial, got 'first'"):
        network(swin_layout="first")


@torch.no_grad()
def test_it_is_saved_and_loaded(tmp_path):
    model = network(svd_attention=False, svd_sign="canonical")
    model.save_pretrained(tmp_path)
    loaded = NPNetModel.from_pretrained(tmp_path).requires_grad_(False)
    x, text = inputs()
    assert torch.equal(loaded(x, text), model(x, text))
    assert loaded.config.svd_sign == "canonical" and not loaded.svd.use_attention


@pytest.mark.parametrize(
    ("shape", "text", "match"),
    [
        ((3, 4, 8, 16), (3, 5, 6), "built for noise 4 x 8 x 8 .* got 4 x 8 x 16"),
        ((3, 16, 8, 8), (3, 5, 6), "got 16 x 8 x 8"),
        ((3, 32, 16), (3, 5, 6), "got 32 x 16"),
        ((3, 4, 8, 8), (3, 7, 6), "5 tokens of width 6, got 7 tokens of width 6"),
        ((3, 4, 8, 8), (3, 5, 4), "got 5 tokens of width 4"),
        ((3, 4, 8, 8), (1, 5, 6), "got 1 texts for 3"),
    ],
)
def test_other_shapes_than_its_own_are_refused(shape, text, match):
    with pytest.raises(ValueError, match=match):
        network()(torch.zeros(shape), torch.zeros(text))


def test_the_defaults_are_those_of_the_published_weights():
    with torch.device("meta"):
        model = NPNetModel()
    count = {part: sum(p.numel() for p in module.parameters()) for part, module in model.named_children()}
    assert count["svd"] + 2 * 256 == 920_448  # the published branch has a normalisation that is never used
    assert count["text"] == 1_261_576
    assert sum(p.numel() for p in model.residual.swin.parameters()) == 27_519_354
