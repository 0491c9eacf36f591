"""NPNet as a sampler and as the start of another sampler, on tiny pipelines."""

import pytest
import torch

import diffusers_ext as dx
from diffusers_ext.sampling.host_call import HostCall
from diffusers_ext.sampling.npnet.keys import export_official
from diffusers_ext.sampling.npnet.network import NPNetModel
from diffusers_ext.sampling.npnet.transform import prompt_embeds
from tests.close import close
from tests.hosts import built, every_call
from tests.sampling.npnet.tiny import network

PROMPTS = ["a red circle", "a blue star"]
SD = dict(sample_size=16, text_tokens=32, text_width=32)  # of the tiny Stable Diffusion


def generators(count=2):
    return [torch.Generator().manual_seed(i) for i in range(count)]


@pytest.fixture(scope="module")
def sd():
    return built("sd")


def redness(images, prompts):
    return images[:, 0].mean((1, 2)) - images[:, 1:].mean((1, 2, 3))


def test_the_picture_is_that_of_the_new_noise(sd):
    found, pipe = sd
    model = network(**SD)
    result = dx.NPNet(model=model).sample(
        pipe, PROMPTS, generator=generators(), num_inference_steps=2, output_type="pt", **found.size
    )
    noise = torch.cat([torch.randn(1, 4, 16, 16, generator=g) for g in generators()])
    text, _ = pipe.encode_prompt(PROMPTS, "cpu", 1, False)
    golden = model(noise, text)
    assert torch.equal(result.noise, golden)
    wanted = pipe(PROMPTS, latents=golden, num_inference_steps=2, output_type="pt", **found.size).images
    close(result.images, wanted, level=512)
    assert result.scores.tolist() == [0, 0] and result.nfe == 2 * 2 * 2


def test_a_network_that_returns_its_input_is_the_plain_pipeline(sd):
    found, pipe = sd
    fresh = NPNetModel(
        **SD,
        svd_heads=2,
        swin_size=16,
        swin_patch=2,
        swin_window=4,
        swin_width=8,
        swin_depths=(1,),
        swin_heads=(2,),
    )
    call = dict(num_inference_steps=2, output_type="pt", **found.size)
    got = dx.NPNet(model=fresh).sample(pipe, PROMPTS, generator=generators(), **call).images
    close(got, pipe(PROMPTS, generator=generators(), **call).images, level=4096)


def test_another_sampler_starts_from_it(sd):
    """Each candidate goes through the network with the text of its own prompt."""
    found, pipe = sd
    npnet = dx.NPNet(model=network(**SD))
    best = dx.BestOfN(n=3, rewards=redness, noise=npnet)
    result = best.sample(pipe, PROMPTS, generator=generators(), num_inference_steps=2, **found.size)
    host = HostCall(pipe, PROMPTS, generators(), **found.size)
    starts = host.draw(3)
    text = prompt_embeds(host)
    golden = npnet.model(starts.noise, text[[0, 0, 0, 1, 1, 1]])
    for p in range(2):
        distance = (golden[3 * p : 3 * p + 3] - result.noise[p]).flatten(1).abs().amax(1)
        assert distance.min() < 1e-4 < distance.max()
    assert not torch.equal(golden, starts.noise)


def test_two_transforms_follow_each_other(sd):
    found, pipe = sd
    npnet = dx.NPNet(model=network(**SD), noise=lambda host, noise: -noise)
    host = HostCall(pipe, PROMPTS, generators(), **found.size)
    result = npnet.sample(pipe, PROMPTS, generator=generators(), num_inference_steps=2, **found.size)
    assert torch.equal(result.noise, dx.NPNet(model=npnet.model)(host, -host.draw(1).noise))


def test_rewards_score_its_pictures(sd):
    found, pipe = sd
    call = dict(num_inference_steps=2, output_type="pt", **found.size)
    result = dx.NPNet(model=network(**SD), rewards=redness).sample(
        pipe, PROMPTS, generator=generators(), **call
    )
    close(result.scores, redness(result.images, PROMPTS), level=512)


@every_call
def test_the_text_is_what_the_pipeline_encodes(host):
    """The first output of `encode_prompt`, for the prompts alone, also under guidance."""
    pipe, kind = host.build(), host.size | host.extra | host.guided
    kind = {name: [value] * 2 if name == "image" else value for name, value in kind.items()}
    found = prompt_embeds(HostCall(pipe, PROMPTS, generators(), **kind))
    assert found.shape[0] == 2 and found.ndim == 3 and torch.isfinite(found).all()
    other = prompt_embeds(HostCall(pipe, PROMPTS[::-1], generators(), **kind))
    close(other.flip(0), found, level=512)
    assert not torch.equal(found[0], found[1])


@pytest.mark.parametrize(
    ("config", "match"),
    [
        (SD | {"sample_size": 8}, "built for noise 4 x 8 x 8 .* got 4 x 16 x 16"),
        (SD | {"in_channels": 16, "fold": (4, 4)}, "built for noise 16 x 16 x 16 .* got 4 x 16 x 16"),
        (SD | {"text_tokens": 77}, "77 tokens of width 32, got 32 tokens of width 32"),
        (SD | {"text_width": 64}, "32 tokens of width 64, got 32 tokens of width 32"),
    ],
)
def test_a_model_that_it_was_not_trained_for_is_refused(config, match, sd):
    found, pipe = sd
    with pytest.raises(ValueError, match=match):
        dx.NPNet(model=network(**config)).sample(pipe, PROMPTS[0], num_inference_steps=1, **found.size)


def test_other_sizes_are_skipped_or_cut_into_tiles(sd):
    found, pipe = sd
    small = network(**SD | {"sample_size": 8})
    host = HostCall(pipe, PROMPTS, generators(), **found.size)
    noise = host.draw(1).noise
    with pytest.warns(UserWarning, match=r"for noise 4 x 8 x 8 and leaves that of 4 x 16 x 16 as it is"):
        assert dx.NPNet(model=small, on_size_mismatch="skip")(host, noise) is noise
    tiled = dx.NPNet(model=small, on_size_mismatch="tile")(host, noise)
    text = prompt_embeds(host)
    for y in (0, 8):
        for x in (0, 8):
            part = (slice(None), slice(None), slice(y, y + 8), slice(x, x + 8))
            close(tiled[part], small(noise[part], text), level=512)
    odd = dx.NPNet(model=network(**SD | {"sample_size": (8, 12)}), on_size_mismatch="tile")
    with pytest.raises(ValueError, match=r"built for noise 4 x 8 x 12 .* got 4 x 16 x 16"):
        odd(host, noise)


def test_variance_is_brought_back(sd):
    found, pipe = sd
    host = HostCall(pipe, PROMPTS, generators(), **found.size)
    noise = host.draw(1).noise
    model = network(**SD)
    plain, unit = dx.NPNet(model=model)(host, noise), dx.NPNet(model=model, renorm="std")(host, noise)
    assert (plain.flatten(1).std(1) - 1).abs().min() > 0.01
    close(unit.flatten(1).std(1), torch.ones(2))
    close(unit, plain / plain.flatten(1).std(1)[:, None, None, None])


def test_weights_come_from_folders_and_published_files(sd, tmp_path):
    found, pipe = sd
    model = network(**SD)
    model.save_pretrained(tmp_path / "folder")
    (tmp_path / "published").mkdir()
    export_official(model, tmp_path / "published" / "sdxl.pth")
    host = HostCall(pipe, PROMPTS, generators(), **found.size)
    noise = host.draw(1).noise
    wanted = dx.NPNet(model=model)(host, noise)
    sizes = {"text_tokens": 32, "text_width": 32, "svd_heads": 4}
    for npnet in (
        dx.NPNet.from_pretrained(tmp_path / "folder"),
        dx.NPNet(model=str(tmp_path / "folder")),
        dx.NPNet.from_pretrained(tmp_path / "published" / "sdxl.pth", config=sizes, renorm="none"),
        dx.NPNet.from_pretrained(tmp_path / "published", weight_name="sdxl.pth", config=sizes),
    ):
        close(npnet(host, noise), wanted, level=256)


def test_settings_are_checked(tmp_path):
    with pytest.raises(ValueError, match=r"needs its weights, got none; NPNet.from_pretrained"):
        dx.NPNet()
    with pytest.raises(ValueError, match=r"on_size_mismatch takes error \| skip \| tile, got 'resize'"):
        dx.NPNet(model=network(), on_size_mismatch="resize")
    with pytest.raises(OSError):
        dx.NPNet.from_pretrained(tmp_path / "nothing")


def test_a_network_of_the_zoo_is_no_pipeline():
    with pytest.raises(ValueError, match=r"'shapes-sd-npnet' changes the noise of one"):
        dx.load("shapes-sd-npnet")
