"""The tokenizer that a GGUF file describes, whatever release of transformers is installed.

transformers reads a byte-level BPE out of GGUF in another way from release to release: 5.17 takes the token that begins
a turn for the one that ends it, so that everything that is trained ends wrongly. What an embedded base reads must not
depend on that.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyengram.sources.provenance import SourceError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_CONTROL = 3  # llama.cpp's type of tokens that stand for no text.


def read_tokenizer(file: Path) -> PreTrainedTokenizerFast:
    """Make the tokenizer of a GGUF file of the kind ``gpt2``, cut as ``smollm`` is: digits one by one.

    Args:
        file: A GGUF file.

    Raises:
        SourceError: It holds a tokenizer of another kind.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    said = _fields(file)
    kind = said.get("ggml.model"), said.get("ggml.pre")
    if kind != ("gpt2", "smollm"):
        raise SourceError(f"{file.name} holds a tokenizer of the kind {kind}, which is not read here.")
    tokens: list[str] = said["ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in said["ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [
            AddedToken(token, special=True, normalized=False)
            for token, type in zip(tokens, said["ggml.token_type"], strict=True)
            if type == _CONTROL
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=tokens[said["ggml.bos_token_id"]],
        eos_token=tokens[said["ggml.eos_token_id"]],
        unk_token=tokens[said["ggml.unknown_token_id"]],
        pad_token=tokens[said["ggml.padding_token_id"]],
        chat_template=said["chat_template"],
        clean_up_tokenization_spaces=False,
    )


def _fields(file: Path) -> dict[str, Any]:
    """What the file says of its tokenizer, by name."""
    from gguf import GGUFReader

    fields = GGUFReader(file).fields
    return {
        name.removeprefix("tokenizer."): field.contents()
        for name, field in fields.items()
        if name.startswith("tokenizer.")
    }
