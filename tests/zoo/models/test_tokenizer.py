import pytest
from transformers import AutoTokenizer, CLIPTokenizer

from diffusers_ext.zoo.models.tokenizer import MAX_LENGTH, build_tokenizer
from diffusers_ext.zoo.world.captions import WORDS
from diffusers_ext.zoo.world.suites import TASKS, suite


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def test_every_word_is_one_token(tokenizer):
    ids = [tokenizer(word).input_ids for word in WORDS]
    assert all(len(i) == 3 for i in ids)
    assert len({i[1] for i in ids}) == len(WORDS)


def test_specials_stand_last_as_in_clip(tokenizer):
    size = len(tokenizer)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (
        size - 2,
        size - 1,
        size - 1,
    )
    assert tokenizer.model_max_length == MAX_LENGTH


@pytest.mark.parametrize("task", TASKS)
def test_captions_round_trip_and_fit(tokenizer, task):
    for spec in suite("held-out", task, 20):
        ids = tokenizer(spec.caption).input_ids
        assert len(ids) == len(spec.caption.replace(",", " ,").split()) + 2 <= MAX_LENGTH
        assert tokenizer.decode(ids, skip_special_tokens=True).replace(" ,", ",").strip() == spec.caption


def test_unknown_words_fall_into_letters(tokenizer):
    assert tokenizer.decode(tokenizer("zebra").input_ids, skip_special_tokens=True).strip() == "zebra"


@pytest.mark.parametrize("loader", [CLIPTokenizer, AutoTokenizer])
def test_saved_and_loaded_it_reads_the_same(tokenizer, tmp_path, loader):
    tokenizer.save_pretrained(tmp_path)
    loaded = loader.from_pretrained(tmp_path)
    text = "a red circle, a blue square and an orange star"
    assert loaded(text, padding="max_length").input_ids == tokenizer(text, padding="max_length").input_ids
    assert loaded.model_max_length == MAX_LENGTH
