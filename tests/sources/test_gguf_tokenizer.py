"""A tokenizer is read out of GGUF by what the file says, not by what the installed transformers makes of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from gguf import GGUFWriter
from tokenizers import pre_tokenizers

from tinyengram.sources import SourceError
from tinyengram.sources.gguf_tokenizer import read_tokenizer

CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
LETTERS = sorted(pre_tokenizers.ByteLevel.alphabet())
MERGES = ["Ġ h", "i n", "1 2"]


def written(file: Path, pre: str = "smollm") -> Path:
    writer = GGUFWriter(file, "llama")
    tokens = [*CONTROL, *LETTERS, *(merge.replace(" ", "") for merge in MERGES)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([3] * len(CONTROL) + [1] * (len(tokens) - len(CONTROL)))
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template("{{ messages[0].content }}")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return file


def test_its_special_tokens_merges_and_digits(tmp_path: Path) -> None:
    tokenizer = read_tokenizer(written(tmp_path / "model.gguf"))
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert (tokenizer.unk_token, tokenizer.pad_token) == ("<|endoftext|>", "<|im_end|>")
    text = "<|im_start|>in hé 12<|im_end|>"
    tokens = tokenizer.convert_ids_to_tokens(tokenizer.encode(text))
    assert tokens == ["<|im_start|>", "in", "Ġh", "Ã", "©", "Ġ", "1", "2", "<|im_end|>"]
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.decode(tokenizer.encode(text), skip_special_tokens=True) == "in hé 12"
    assert tokenizer.apply_chat_template([{"role": "user", "content": "in"}], tokenize=False) == "in"


def test_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="'llama-bpe'"):
        read_tokenizer(written(tmp_path / "model.gguf", pre="llama-bpe"))
