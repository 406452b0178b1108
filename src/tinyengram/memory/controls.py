"""Controls: memories in which no n-gram can be told from another, so that what they learn does not come from memory."""

from __future__ import annotations

import torch

from tinyengram.memory.config import EngramConfig
from tinyengram.memory.index import EngramIndex
from tinyengram.memory.reading import Reading


class ControlIndex(EngramIndex):
    """Finds other rows of the same heads than those of an n-gram; "not known" stays as it is."""

    def rows(self, adapter_name: str, layer_id: int, reading: Reading) -> torch.Tensor:
        rows = super().rows(adapter_name, layer_id, reading)
        if self.memory == "hashed":
            return self.other_rows(rows, self.sizes[self.layer_ids.index(layer_id)].flatten())
        known = torch.tensor([len(self.ngram_keys)], device=rows.device)
        return torch.where(rows < known, self.other_rows(rows, known), known)

    def other_rows(self, rows: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
        """What is read instead, int64 ``(batch, length, rows per position)``.

        Args:
            rows: Of the n-grams, of the same shape; an exact memory's "not known" is the number of known rows.
            sizes: Rows of each head, int64 ``(rows per position,)``, or ``(1,)`` where all share one.
        """
        raise NotImplementedError


class SingleRowIndex(ControlIndex):
    """One row a head, or an order of an exact memory, whose orders share one head."""

    def other_rows(self, rows: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
        each = torch.arange(rows.shape[-1], device=rows.device)
        return (sizes.cumsum(0) - sizes if len(sizes) > 1 else each % sizes).expand(rows.shape)


class ShuffledIndex(ControlIndex):
    """Rows of each head, permuted afresh at every call in training; in evaluation by one permutation, so that a text
    that is read in parts is read as in one.
    """

    def other_rows(self, rows: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
        generator = None if self.training else torch.Generator().manual_seed(0)
        random = torch.rand(int(sizes.sum()), generator=generator).to(rows.device)
        head = torch.repeat_interleave(torch.arange(len(sizes), device=rows.device), sizes)
        # Sorting by (head, random) permutes within each head only; the row "not known" of an exact memory stays.
        order = torch.argsort(random + head)
        return torch.cat([order, sizes.sum().view(1)])[rows]


def make_index(config: EngramConfig, vocab_size: int, pad_token_id: int) -> EngramIndex:
    """The index that ``config.rows`` asks for; see :class:`EngramIndex`."""
    kinds = {"ngram": EngramIndex, "single": SingleRowIndex, "shuffled": ShuffledIndex}
    return kinds[config.rows](config, vocab_size, pad_token_id)
