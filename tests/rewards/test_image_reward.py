"""ImageReward, against its two halves written with layers of torch."""

from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d

import diffusers_ext as dx
from diffusers_ext.rewards import ImageReward
from diffusers_ext.rewards.image_reward import FILE, HEADS, MEAN, STD, TOKENS, from_published
from tests.close import alike

from .models import PROMPTS, pictures, slope_error

WIDTH, SIDE, PATCH, DEPTH, WORDS = 48, 64, 16, 2, 40
BLOCK = dict(dim_feedforward=2 * WIDTH, dropout=0.0, activation="gelu", batch_first=True)
EYES = {
    "norm1": "norm1", "norm2": "norm2", "self_attn.in_proj_": "attn.qkv.", "self_attn.out_proj": "attn.proj",
    "linear1": "mlp.fc1", "linear2": "mlp.fc2",
}  # fmt: skip
READ = {
    "self_attn.out_proj": "attention.output.dense", "norm1": "attention.output.LayerNorm",
    "multihead_attn.out_proj": "crossattention.output.dense", "norm2": "crossattention.output.LayerNorm",
    "linear1": "intermediate.dense", "linear2": "output.dense", "norm3": "output.LayerNorm",
}  # fmt: skip


class Published(nn.Module):
    """The arithmetic of ImageReward, and its tensors under the names of the published file."""

    def __init__(self):
        super().__init__()
        eyes = dict(norm_first=True, layer_norm_eps=1e-6, **BLOCK)
        self.eyes = nn.ModuleList(nn.TransformerEncoderLayer(WIDTH, HEADS[1], **eyes) for _ in range(DEPTH))
        read = dict(layer_norm_eps=1e-12, **BLOCK)
        self.read = nn.ModuleList(nn.TransformerDecoderLayer(WIDTH, HEADS[0], **read) for _ in range(DEPTH))
        self.patch, self.last = nn.Conv2d(3, WIDTH, PATCH, PATCH), nn.LayerNorm(WIDTH, 1e-6)
        self.words, self.places = nn.Embedding(WORDS, WIDTH), nn.Embedding(TOKENS, WIDTH)
        self.first = nn.LayerNorm(WIDTH, 1e-12)
        self.start = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.grid = nn.Parameter(torch.randn(1, (SIDE // PATCH) ** 2 + 1, WIDTH))
        widths = (WIDTH, 32, 8, 1)
        linear = [nn.Linear(a, b) for a, b in pairwise(widths)]
        self.head = nn.Sequential(linear[0], nn.Dropout(0.2), linear[1], nn.Dropout(0.1), linear[2])

    def forward(self, pixels, ids, mask):
        x = conv2d(pixels, self.patch.weight, self.patch.bias, PATCH).flatten(2).mT
        x = torch.cat([self.start.expand(len(x), 1, -1), x], 1) + self.grid
        for block in self.eyes:
            x = block(x)
        seen = self.last(x)
        y = self.first(self.words(ids) + self.places.weight[: ids.shape[1]])
        for block in self.read:
            y = block(y, seen, tgt_key_padding_mask=mask == 0)
        return (self.head(y[:, 0])[:, 0] - MEAN) / STD

    def tensors(self):
        own = {
            "blip.visual_encoder.cls_token": self.start, "blip.visual_encoder.pos_embed": self.grid,
            "blip.text_encoder.embeddings.word_embeddings.weight": self.words.weight,
            "blip.text_encoder.embeddings.position_embeddings.weight": self.places.weight,
            "blip.text_encoder.embeddings.position_ids": torch.arange(TOKENS)[None],
            "blip.vision_proj.weight": torch.zeros(4, WIDTH),
        }  # fmt: skip
        parts = {
            "blip.visual_encoder.patch_embed.proj": self.patch, "blip.visual_encoder.norm": self.last,
            "blip.text_encoder.embeddings.LayerNorm": self.first, "mlp.layers": self.head,
        }  # fmt: skip
        own |= {f"{home}.{key}": v for home, part in parts.items() for key, v in part.state_dict().items()}
        for number in range(DEPTH):
            for key, value in self.eyes[number].state_dict().items():
                (old,) = [o for o in EYES if key.startswith(o)]
                own[f"blip.visual_encoder.blocks.{number}.{key.replace(old, EYES[old])}"] = value
            home = f"blip.text_encoder.encoder.layer.{number}."
            for key, value in self.read[number].state_dict().items():
                if "in_proj_" in key:
                    which = "attention" if key.startswith("self") else "crossattention"
                    for name, part in zip(("query", "key", "value"), value.chunk(3), strict=True):
                        own[f"{home}{which}.self.{name}.{key.rpartition('_')[2]}"] = part.clone()
                else:
                    (old,) = [o for o in READ if key.startswith(o)]
                    own[home + key.replace(old, READ[old])] = value
        return {key: value.detach() for key, value in own.items()}


@pytest.fixture(scope="module")
def published():
    torch.manual_seed(0)
    model = Published().eval()
    for value in model.parameters():
        value.data += 0.1 * torch.randn_like(value)
    return model


@pytest.fixture(scope="module")
def folder(published, tmp_path_factory):
    from transformers import BertTokenizer

    folder = tmp_path_factory.mktemp("image-reward")
    torch.save(published.tensors(), folder / FILE)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted({w for p in PROMPTS for w in p.split()})]
    BertTokenizer(vocab={word: i for i, word in enumerate(words)}).save_pretrained(folder)
    return folder


@torch.no_grad()
def test_the_score_is_that_of_the_written_out_model(published, folder):
    reward = ImageReward(folder, tokenizer=folder)
    colours = [torch.tensor(v)[:, None, None] for v in
               ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))]  # fmt: skip
    asked = reward.tokenizer(PROMPTS, padding="max_length", max_length=TOKENS, return_tensors="pt")
    assert asked.attention_mask.sum(1).tolist() == [9, 5, 5]  # words, and two marks
    wanted = published((pictures() - colours[0]) / colours[1], asked.input_ids, asked.attention_mask)
    found = reward.score(pictures(), PROMPTS)
    alike(found, wanted)
    turned = [1, 2, 0]
    alike(reward.score(pictures()[turned], [PROMPTS[i] for i in turned]), wanted[turned])
    other = reward.score(pictures(), [PROMPTS[i] for i in turned])
    assert (other - wanted).abs().min() > 1e-4 and wanted.std() > 1e-2


def test_the_gradient_is_that_of_finite_differences(folder):
    reward = ImageReward(folder, tokenizer=folder, dtype=torch.float64)
    assert slope_error(lambda x: reward._score(x, PROMPTS), pictures()) < 1e-6
    again = ImageReward(folder, tokenizer=folder, dtype=torch.float64, checkpoint=True)
    assert slope_error(lambda x: again._score(x, PROMPTS), pictures()[..., :48]) < 1e-6


def test_long_prompts_are_cut(folder):
    reward = ImageReward(folder, tokenizer=folder)
    long = " ".join(["red"] * 200)
    alike(reward.score(pictures()[:1], [long]), reward.score(pictures()[:1], [f"{long} blue"]))


def test_other_files_are_refused(published):
    tensors = published.tensors()
    for half in ("visual_encoder", "text_encoder"):
        with pytest.raises(ValueError, match=rf"and these have not; pass {FILE}"):
            from_published({key: value for key, value in tensors.items() if half not in key})


def test_names():
    assert dx.rewards.ImageReward is ImageReward and ImageReward().place == "THUDM/ImageReward"


def test_published_weights_score_in_their_range(online):
    red = torch.zeros(1, 3, 224, 224)
    red[:, 0] = 1
    good, bad = (
        ImageReward().score(red, [prompt]) for prompt in ("a plain red picture", "a horse at the sea")
    )
    assert -3 < bad < good < 3
