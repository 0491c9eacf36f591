"""Build a real CLIPTokenizer whose byte-pair merges come from our word list instead of a text corpus."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..world.captions import WORDS

if TYPE_CHECKING:
    from transformers import CLIPTokenizer, PreTrainedTokenizerBase

MAX_LENGTH = 24  # tokens, specials included; the longest caption takes 13
BOS, EOS = "<|startoftext|>", "<|endoftext|>"


def build_tokenizer() -> CLIPTokenizer:
    """Build a tokenizer with one token for each word of the grammar; unknown words are split into letters."""
    from transformers import CLIPTokenizer

    vocab, merges = vocabulary()
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=MAX_LENGTH)


def clip_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Return what the config of a CLIP text encoder states about its tokenizer."""
    return {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": tokenizer.model_max_length,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return token ids (specials last, as in CLIP) and the merges that build each word from left to right."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,'!?-"
    vocab = {token: i for i, token in enumerate([*letters, *(c + "</w>" for c in letters)])}
    merges: dict[tuple[str, str], None] = {}  # ordered: an earlier merge wins
    for word in sorted(WORDS, key=len):
        pieces = _merge([*word[:-1], word[-1] + "</w>"], list(merges))
        while len(pieces) > 1:  # pieces that earlier words did not join are joined from the left
            pair = (pieces[0], pieces[1])
            merges[pair] = None
            vocab.setdefault("".join(pair), len(vocab))
            pieces = _merge(pieces, [pair])
    vocab[BOS] = len(vocab)
    vocab[EOS] = len(vocab)
    return vocab, list(merges)


def _merge(pieces: list[str], merges: list[tuple[str, str]]) -> list[str]:
    """Apply merges in rank order, each wherever it fits: what byte-pair encoding does with one word."""
    for left, right in merges:
        i = 0
        while i < len(pieces) - 1:
            if (pieces[i], pieces[i + 1]) == (left, right):
                pieces[i : i + 2] = [left + right]
            i += 1
    return pieces
