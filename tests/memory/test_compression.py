"""Tokens that say the same share an id, in order of first appearance; the rules are those of the paper's demo."""

from __future__ import annotations

import unicodedata

import pytest
import torch
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from tinyengram import compress_vocabulary
from tinyengram.sources import load_base


def tokenizer_of(*tokens: str) -> PreTrainedTokenizerFast:
    inner = Tokenizer(models.WordLevel({token: index for index, token in enumerate(tokens)}, unk_token=tokens[0]))
    inner.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=inner, clean_up_tokenization_spaces=False)


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("Apple", "apple", True),
        (" apple", "apple", True),
        ("APPLE ", "\tapple", True),
        ("café", "cafe", True),
        ("ﬁne", "fine", True),
        ("Å", "a", True),
        ("a \t b", "a b", True),
        ("\n", " ", True),
        ("\n\n", " ", True),
        ("apple", "apples", False),
        ("a b", "ab", False),
        (" ", "a", False),
        ("1", "2", False),
    ],
)
def test_what_is_one(first: str, second: str, same: bool) -> None:
    one, other = compress_vocabulary(tokenizer_of(first, second)).tolist()
    assert (one == other) is same


def test_numbers_follow_first_appearance_and_cover() -> None:
    assert compress_vocabulary(tokenizer_of("b", "a", "B", "c", " A")).tolist() == [0, 1, 0, 2, 1]


def test_an_empty_result_keeps_the_raw_text() -> None:
    # A lone combining accent is stripped to nothing.
    assert compress_vocabulary(tokenizer_of("\u0301", "\u0300", "x")).tolist() == [0, 1, 2]


def test_bytes_that_do_not_decode_keep_the_raw_token() -> None:
    tokenizer = load_base("tiny-random-llama").tokenizer
    ids = compress_vocabulary(tokenizer)
    undecodable = [i for i in range(len(tokenizer)) if "\N{REPLACEMENT CHARACTER}" in tokenizer.decode([i])]
    assert undecodable
    assert len(set(ids[undecodable].tolist())) == len(undecodable)


def test_a_real_vocabulary_against_the_definition() -> None:
    """Written from the definition with the standard library, over the byte vocabulary of the tiny base."""
    tokenizer = load_base("tiny-random-llama").tokenizer

    def canonical(token: int) -> str:
        text = tokenizer.decode([token])
        if "\N{REPLACEMENT CHARACTER}" in text:
            return tokenizer.convert_ids_to_tokens(token)
        plain = unicodedata.normalize("NFD", unicodedata.normalize("NFKC", text))
        plain = "".join(letter for letter in plain if unicodedata.category(letter) != "Mn").lower()
        spaced = "".join(" " if letter in " \t\r\n" else letter for letter in plain)
        collapsed = " ".join(part for part in spaced.split(" ") if part) if spaced.strip() else spaced[:1]
        return collapsed or text

    names = [canonical(token) for token in range(len(tokenizer))]
    found = compress_vocabulary(tokenizer)
    assert found.dtype == torch.int64
    order = list(dict.fromkeys(names))
    assert found.tolist() == [order.index(name) for name in names]
    assert int(found.max()) + 1 < len(tokenizer)
