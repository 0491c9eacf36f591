"""HPSv2 and weights of OpenCLIP, against its two halves written with layers of torch."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn.functional import normalize

import diffusers_ext as dx
from diffusers_ext.rewards import HPSv2
from diffusers_ext.rewards.clip import LAION
from diffusers_ext.rewards.hps import FILE, from_open_clip
from diffusers_ext.zoo.models import build_processor
from tests.close import alike

from .models import PROMPTS, clip_folder, pictures, slope_error

WIDTH, DEPTH, JOINT, PATCHES = 64, 2, 24, 64
TOKENIZER = build_processor().tokenizer
WORDS, LENGTH = TOKENIZER.eos_token_id + 1, TOKENIZER.model_max_length
HEADS = 16, 16


class Half(nn.Module):
    """A transformer with the layers of torch, whose weights OpenCLIP has under names of its own."""

    NAMES = {
        "norm1": "ln_1", "norm2": "ln_2", "self_attn.in_proj_": "attn.in_proj_",
        "self_attn.out_proj": "attn.out_proj", "linear1": "mlp.c_fc", "linear2": "mlp.c_proj",
    }  # fmt: skip

    def __init__(self, width):
        super().__init__()
        block = dict(dim_feedforward=4 * width, dropout=0.0, activation="gelu", batch_first=True)
        layers = [nn.TransformerEncoderLayer(width, 16, norm_first=True, **block) for _ in range(DEPTH)]
        self.blocks = nn.ModuleList(layers)

    def forward(self, x, mask=None):
        for block in self.blocks:
            x = block(x, src_mask=mask)
        return x

    def named(self, prefix):
        found = {}
        for key, value in self.state_dict().items():
            _, number, rest = key.split(".", 2)
            (old,) = [o for o in self.NAMES if rest.startswith(o)]
            found[f"{prefix}transformer.resblocks.{number}.{rest.replace(old, self.NAMES[old])}"] = value
        return found


class OpenClip(nn.Module):
    def __init__(self):
        super().__init__()
        self.visual, self.text = Half(WIDTH), Half(WIDTH)
        self.own = nn.ParameterDict({
            "visual/class_embedding": torch.randn(WIDTH), "visual/proj": torch.randn(WIDTH, JOINT),
            "visual/positional_embedding": torch.randn(PATCHES + 1, WIDTH),
            "positional_embedding": torch.randn(LENGTH, WIDTH), "text_projection": torch.randn(WIDTH, JOINT),
            "logit_scale": torch.tensor(2.0), "visual/conv1/weight": torch.randn(WIDTH, 3, 8, 8) / 10,
            "token_embedding/weight": torch.randn(WORDS, WIDTH),
        })  # fmt: skip
        self.norms = nn.ModuleDict(
            {n: nn.LayerNorm(WIDTH) for n in ("visual/ln_pre", "visual/ln_post", "ln_final")}
        )
        for norm in self.norms.values():
            nn.init.normal_(norm.weight, 1, 0.1)

    def see(self, pixels):
        x = nn.functional.conv2d(pixels, self.own["visual/conv1/weight"], stride=8).flatten(2).mT
        first = self.own["visual/class_embedding"].expand(len(x), 1, -1)
        x = torch.cat([first, x], 1) + self.own["visual/positional_embedding"]
        x = self.visual(self.norms["visual/ln_pre"](x))[:, 0]
        return normalize(self.norms["visual/ln_post"](x) @ self.own["visual/proj"], dim=-1)

    def read(self, ids):
        x = self.own["token_embedding/weight"][ids] + self.own["positional_embedding"]
        x = self.text(x, nn.Transformer.generate_square_subsequent_mask(LENGTH))
        x = self.norms["ln_final"](x)[torch.arange(len(ids)), ids.argmax(1)]
        return normalize(x @ self.own["text_projection"], dim=-1)

    def tensors(self):
        own = {
            **self.own,
            **{f"{n}/{k}": v for n, m in self.norms.items() for k, v in m.state_dict().items()},
        }
        plain = {key.replace("/", "."): value.detach() for key, value in own.items()}
        return plain | self.visual.named("visual.") | self.text.named("")


@pytest.fixture(scope="module")
def source():
    torch.manual_seed(0)
    return OpenClip().eval()


@torch.no_grad()
def test_features_are_those_of_open_clip(source):
    model = from_open_clip(source.tensors(), HEADS).eval()
    pixels, ids = torch.randn(3, 3, 64, 64), torch.randint(1, WORDS - 1, (3, LENGTH))
    ids[:, 9], ids[:, 10:] = WORDS - 1, 0
    alike(normalize(model.get_image_features(pixels).pooler_output, dim=-1), source.see(pixels))
    alike(normalize(model.get_text_features(ids).pooler_output, dim=-1), source.read(ids))


@pytest.fixture
def file(source, tmp_path):
    torch.save({"epoch": 1, "name": "x", "state_dict": source.tensors()}, tmp_path / FILE)
    build_processor().save_pretrained(tmp_path / "processor")
    return tmp_path / FILE


@torch.no_grad()
def test_the_score_is_the_cosine_of_the_published_file(source, file):
    reward = HPSv2(file, processor=file.parent / "processor")
    ids = reward.processor.tokenizer(PROMPTS, padding="max_length", return_tensors="pt").input_ids
    wanted = (source.see((pictures() - 0.5) / 0.5) * source.read(ids)).sum(1)
    alike(reward.score(pictures(), PROMPTS), wanted)


def test_the_longest_side_is_resized_and_the_rest_is_black(tmp_path):
    """The stock resizing of PIL puts the picture between the bars."""
    reward = HPSv2(clip_folder(tmp_path))
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(60, 196, (6, 12, 3), np.uint8))
    image = small.resize((128, 60), Image.Resampling.BICUBIC)
    inner = np.asarray(image.resize((64, 30), Image.Resampling.BICUBIC), np.float32) / 255
    wanted = np.zeros((64, 64, 3), np.float32)
    wanted[17:47] = inner
    found = reward.pixels(dx.rewards.to_tensor([image]))[0].permute(1, 2, 0)
    torch.testing.assert_close(found, torch.from_numpy(wanted / 0.5 - 1), atol=3 / 255, rtol=0)
    tall = reward.pixels(dx.rewards.to_tensor([image.rotate(90, expand=True)]))[0]
    torch.testing.assert_close(tall.rot90(-1, (1, 2)).permute(1, 2, 0), found, atol=3 / 255, rtol=0)


def test_a_square_picture_is_scored_as_by_its_clip_model(tmp_path):
    folder = clip_folder(tmp_path)
    reward, other = HPSv2(folder), dx.rewards.ShapesCLIP(folder)
    alike(reward.score(pictures(), PROMPTS), other.score(pictures(), PROMPTS))
    wide = HPSv2(folder, dtype=torch.float64)
    assert slope_error(lambda x: wide._score(x, PROMPTS), 0.2 + 0.6 * torch.rand(3, 3, 40, 90)) < 1e-6


def test_other_files_are_refused(file, source, tmp_path):
    tensors = source.tensors()
    del tensors["visual.proj"]
    torch.save(tensors, tmp_path / "other.pt")
    with pytest.raises(
        ValueError, match=r"must have 'visual.proj', and these have not; pass a file of HPSv2"
    ):
        HPSv2(tmp_path / "other.pt", processor=file.parent / "processor").score(pictures(), PROMPTS)


def test_names():
    assert dx.rewards.HPSv2 is HPSv2
    assert (HPSv2().place, HPSv2().processor_place) == ("xswu/HPSv2", LAION)


def test_published_weights_score_in_their_range(online):
    red = torch.zeros(1, 3, 224, 224)
    red[:, 0] = 1
    good, bad = (HPSv2().score(red, [prompt]) for prompt in ("a plain red picture", "a horse at the sea"))
    assert 0.1 < bad < good < 0.4
