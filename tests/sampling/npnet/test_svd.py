import pytest
import torch

from diffusers_ext.sampling.npnet.svd import SingularValues
from tests.close import close
from tests.sampling.npnet.tiny import inputs, network

SETTINGS = dict(hidden=8, last_hidden=12, heads=4, attention=True, sign="raw")


@pytest.mark.parametrize(
    ("shape", "fold"), [((4, 8, 8), (2, 2)), ((4, 8, 12), (4, 1)), ((6, 4, 8), (2, 3)), ((16, 4, 4), (4, 4))]
)
def test_channels_are_folded_beside_each_other(shape, fold):
    branch = SingularValues(shape, fold, **SETTINGS)
    x = torch.randn(2, *shape)
    rows = [torch.cat([x[:, i * fold[1] + j] for j in range(fold[1])], -1) for i in range(fold[0])]
    matrix = torch.cat(rows, -2)
    assert torch.equal(branch.folded(x), matrix)
    assert torch.equal(branch.unfolded(matrix, x.shape), x)
    close(branch(x), x)  # a new branch changes nothing


def test_singular_vectors_stay():
    svd = network().svd
    x, _ = inputs()
    u, s, vh = svd.decompose(x)
    changed = u.mT @ svd.folded(svd(x)) @ vh.mT
    diagonal = torch.diag_embed(changed.diagonal(dim1=1, dim2=2))
    close(changed, diagonal, level=512)
    assert (changed.diagonal(dim1=1, dim2=2) - s).abs().max() > 0.1


@pytest.mark.parametrize("attention", [True, False])
def test_the_values_are_those_of_the_paper(attention):
    """The oracle adds up row by row and head by head."""
    svd = network(svd_attention=attention).svd
    x, _ = inputs(1)
    u, s, vh = svd.decompose(x)
    rows = [svd.mlp1(u[0, :, i]) + svd.mlp2(vh[0, i]) + svd.mlp3(s[0]) for i in range(s.shape[1])]
    z = torch.stack(rows)
    if attention:
        weight, size = svd.attention.qkv.weight, s.shape[1] // 4
        q, k, v = (z @ part.T for part in weight.chunk(3))
        heads = [slice(i, i + size) for i in range(0, s.shape[1], size)]
        seen = [torch.softmax(q[:, h] @ k[:, h].T / size**0.5, -1) @ v[:, h] for h in heads]
        wanted = svd.mlp4(svd.attention.proj(torch.cat(seen, -1)).mean(0))
    else:
        wanted = torch.stack([svd.mlp4(row) for row in z]).mean(0)
    got = (u.mT @ svd.folded(svd(x)) @ vh.mT).diagonal(dim1=1, dim2=2)
    close(got - s, wanted[None], level=1024)


def test_canonical_signs_do_not_depend_on_the_library():
    svd = network(svd_sign="canonical").svd
    x, _ = inputs()
    u, s, vh = svd.decompose(x)
    assert (u.gather(1, u.abs().argmax(1, keepdim=True)) > 0).all()
    close((u * s[:, None]) @ vh, svd.folded(x))
    vectors, values, others = torch.linalg.svd(svd.folded(x))
    flips = torch.tensor([1.0, -1.0]).repeat(8)  # another library's choice
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            torch.linalg, "svd", lambda m, full_matrices: (vectors * flips, values, others * flips[:, None])
        )
        same = svd.decompose(x)
    for got, wanted in zip(same, (u, s, vh), strict=True):
        assert torch.equal(got, wanted)


def test_no_gradient_goes_through_the_decomposition():
    svd = network().svd.requires_grad_(True)
    x, _ = inputs()
    twin = x.clone()
    twin[1] = 1.0  # a matrix of rank one, whose other vectors have no derivative
    svd(twin.requires_grad_()).square().mean().backward()
    assert twin.grad is None
    assert all(torch.isfinite(p.grad).all() and p.grad.any() for p in svd.parameters())


@pytest.mark.parametrize(
    ("fold", "change", "match"),
    [
        ((2, 3), {}, "4 channels, got .2, 3."),
        ((2, 2), {"heads": 3}, "16 singular values .* got 3"),
        ((2, 2), {"sign": "positive"}, "raw, canonical, got 'positive'"),
    ],
)
def test_settings_that_do_not_fit_are_refused(fold, change, match):
    with pytest.raises(ValueError, match=match):
        SingularValues((4, 8, 8), fold, **SETTINGS | change)
