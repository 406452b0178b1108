"""How one adapter finds its rows: the vocabulary map with hash parameters or known n-grams."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tinyengram.memory.compression import compress_vocabulary
from tinyengram.memory.config import EngramConfig
from tinyengram.memory.latch import as_tensor
from tinyengram.memory.ngrams import exact_rows, hash_multipliers, hashed_rows, head_sizes, map_digest
from tinyengram.memory.reading import Reading
from tinyengram.memory.saving import check_fingerprint


class EngramIndex(nn.Module):
    """How one adapter finds its rows: the vocabulary map with hash parameters or known n-grams, kept as buffers.

    Args:
        config: The memory's options, checked against the base.
        vocab_size: Rows of the base's embedding.
        pad_token_id: Raw id that stands for positions before a text.
    """

    compression: torch.Tensor | None
    pad: torch.Tensor
    sizes: torch.Tensor
    multipliers: torch.Tensor
    ngrams: torch.Tensor
    ngram_keys: torch.Tensor
    fingerprint: dict[str, Any]  # Written once the base is known.

    def __init__(self, config: EngramConfig, vocab_size: int, pad_token_id: int) -> None:
        super().__init__()
        self.memory, self.max_ngram_size = config.memory, config.max_ngram_size
        stored = config.from_file
        if stored is not None:
            check_fingerprint(stored, config)
        vocabulary = None
        compression = None
        if config.tokenizer_name_or_path is not None:
            if stored:
                compression = torch.zeros(stored["map_size"], dtype=torch.int32)
            else:
                compression, vocabulary = _vocabulary_map(config.tokenizer_name_or_path, vocab_size, pad_token_id)
        # Whether buffers still wait for a file: what a tokenizer or a corpus gave cannot be made from a fingerprint.
        self.awaits_file = stored is not None and (config.memory == "exact" or compression is not None)
        self.register_buffer("compression", compression)
        self.register_buffer("pad", torch.tensor(0 if self.awaits_file else self._compressed(pad_token_id)))
        if stored:
            self.compressed_vocab_size = stored["compressed_vocab_size"]
        else:
            self.compressed_vocab_size = vocab_size if compression is None else int(compression.max()) + 1
        self.layer_ids = list(config.layer_ids)
        if config.memory == "hashed":
            primes = head_sizes(config.layer_ids, config.engram_vocab_size, config.n_head_per_ngram)
            self.register_buffer("sizes", torch.tensor([primes[layer] for layer in config.layer_ids]))
            self.largest = max(size for orders in primes.values() for heads in orders for size in heads)
            multipliers = [
                hash_multipliers(layer, config.max_ngram_size, self.compressed_vocab_size, config.seed)
                for layer in config.layer_ids
            ]
            self.register_buffer("multipliers", torch.stack(multipliers))
        elif stored:
            shape = (stored["n_ngrams"], max(stored["ngram_orders"]))
            self.orders = tuple(stored["ngram_orders"])
            self.register_buffer("ngrams", torch.zeros(shape, dtype=torch.int64))
            self.register_buffer("ngram_keys", torch.zeros(shape[0], dtype=torch.int64))
        else:
            assert config.ngrams is not None
            if config.ngrams.vocabulary != vocabulary:
                raise ValueError(
                    "ngrams were collected with another vocabulary map than that of "
                    f"{config.tokenizer_name_or_path!r}; collect them with compression=compress_vocabulary(tokenizer) "
                    "of that very tokenizer."
                )
            self.orders = config.ngrams.orders
            highest = int(config.ngrams.ngrams.max())
            if highest >= self.compressed_vocab_size:
                raise ValueError(
                    f"ngrams holds the id {highest} but there are {self.compressed_vocab_size} canonical ids; collect "
                    "the n-grams with the same tokenizer, and with compression=compress_vocabulary(tokenizer) exactly "
                    "when tokenizer_name_or_path is set."
                )
            self.register_buffer("ngrams", config.ngrams.ngrams.clone())
            self.register_buffer("ngram_keys", config.ngrams.keys.clone())

    def _compressed(self, token_id: int) -> int:
        return token_id if self.compression is None else int(self.compression[token_id])

    def open_after(self, openings: list[list[int]]) -> None:
        """Stay shut in each text until one of these runs of raw token ids was read."""
        # Not among the tensors of a file: they stand in its fingerprint.
        self.register_buffer("opening_ids", as_tensor(openings), persistent=False)

    @property
    def openings(self) -> torch.Tensor | None:
        """The runs as :func:`tinyengram.memory.latch.as_tensor` has them; None: the memory is always open."""
        return self._buffers.get("opening_ids")

    @property
    def runs(self) -> list[list[int]]:
        """The runs of raw token ids that open the memory; none where it is always open."""
        found = [] if self.openings is None else self.openings.tolist()
        return [[token for token in reversed(run) if token >= 0] for run in found]

    @property
    def reach(self) -> int:
        """Tokens before the one being read that it looks at."""
        return max(self.max_ngram_size, 0 if self.openings is None else self.openings.shape[1]) - 1

    def n_rows(self, layer_id: int) -> int:
        """Rows of a layer's table."""
        if self.memory == "hashed":
            return int(self.sizes[self.layer_ids.index(layer_id)].sum())
        return len(self.ngram_keys) + 1

    def describe(self) -> dict[str, Any]:
        """What a saved adapter must say for its buffers to be made before they are loaded."""
        facts: dict[str, Any] = {"compressed_vocab_size": self.compressed_vocab_size}
        if self.compression is not None:
            facts["map_size"] = len(self.compression)
        if self.memory == "exact":
            facts |= {"n_ngrams": len(self.ngram_keys), "ngram_orders": list(self.orders)}
        if self.openings is not None:
            facts["open_after"] = self.runs
        return facts

    def rows(self, adapter_name: str, layer_id: int, reading: Reading) -> torch.Tensor:
        """Table rows of a layer at each position being read, int64 ``(batch, length, rows per position)``."""
        if self.awaits_file:
            self._refuse_unloaded(adapter_name)
        if self.pad.device.type == "meta":
            raise ValueError(
                f"The buffers by which the memory {adapter_name!r} finds its rows are offloaded; offload with "
                "offload_buffers=False, accelerate's default."
            )
        window = reading.once(
            (adapter_name, "window"), lambda: reading.window(self.max_ngram_size, self.pad, self.compression)
        )
        if self.memory == "exact":
            return reading.once(
                (adapter_name, "rows"), lambda: self._exact_rows(window, reading.opened.get(adapter_name))
            )
        at = self.layer_ids.index(layer_id)
        return reading.once(
            (adapter_name, "rows"), lambda: hashed_rows(window, self.multipliers, self.sizes, self.largest)
        )[at]

    def _exact_rows(self, window: torch.Tensor, opened: torch.Tensor | None) -> torch.Tensor:
        """Where the memory is shut it knows no n-gram."""
        rows = exact_rows(window, self.ngrams, self.ngram_keys, self.orders)
        return rows if opened is None else torch.where(opened.unsqueeze(-1), rows, len(self.ngram_keys))

    def _refuse_unloaded(self, adapter_name: str) -> None:
        fresh = "give ngrams=collect_ngrams(...)" if self.memory == "exact" else "set its fingerprint to None"
        raise ValueError(
            f"The memory {adapter_name!r} was made from the config of a saved adapter but its tensors were not "
            "loaded. Load the adapter with PeftModel.from_pretrained(base, folder); for a new memory with these "
            f"options, {fresh}."
        )

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        if f"{prefix}pad" in state_dict:
            self.awaits_file = False


def _vocabulary_map(tokenizer_name: str, vocab_size: int, pad_token_id: int) -> tuple[torch.Tensor, str]:
    """int32 ``(ids,)`` map of the named tokenizer, with ids beyond its vocabulary as pad, and the map's digest."""
    from transformers import AutoTokenizer

    mapped = compress_vocabulary(AutoTokenizer.from_pretrained(tokenizer_name))
    if pad_token_id >= len(mapped):
        raise ValueError(
            f"pad_token_id={pad_token_id} is not in the tokenizer {tokenizer_name!r} of {len(mapped)} tokens."
        )
    beyond = mapped[pad_token_id].repeat(max(0, vocab_size - len(mapped)))
    return torch.cat([mapped, beyond]).to(torch.int32), map_digest(mapped)
