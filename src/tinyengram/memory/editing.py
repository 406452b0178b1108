"""Taking things back: what a memory was taught of an n-gram is removed, and where only that spoke the base is back.

A row of zeros contributes exactly nothing (no projection has a bias), so that a place where every n-gram was taken
back is the base's to the bit. Of an exact memory the n-gram itself goes too; a hashed one has rows alone, which n-grams
share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import torch
from torch import nn

from tinyengram.errors import TinyEngramError
from tinyengram.memory.config import EngramConfig
from tinyengram.memory.explaining import tuner_of
from tinyengram.memory.index import EngramIndex
from tinyengram.memory.layer import EngramLayer, EngramMemory
from tinyengram.memory.reading import Reading

_SHOWN = 5


@dataclass(frozen=True)
class Edit:
    """What an edit took back.

    Attributes:
        ngrams: Known n-grams that were removed, as canonical ids, oldest first; none of a hashed memory.
        rows: How many rows that held something were removed or are zero now, over all layers.
        left: How many rows still hold something.
    """

    ngrams: list[list[int]]
    rows: int
    left: int


class Editor:
    """Edits the memory of one adapter, in place.

    Args:
        model: A PEFT model with an Engram adapter.
        adapter_name: Which.

    Raises:
        TinyEngramError: It has no memory.
    """

    def __init__(self, model: Any, adapter_name: str = "default") -> None:
        tuner = tuner_of(model)
        if tuner is None or adapter_name not in tuner.engram_index:
            raise TinyEngramError(f"The adapter {adapter_name!r} has no memory, so there is nothing to take back.")
        self._tuner = tuner
        self._index = cast(EngramIndex, tuner.engram_index[adapter_name])
        self._config = cast(EngramConfig, tuner.peft_config[adapter_name])
        layers = [module for module in tuner.modules() if isinstance(module, EngramLayer)]
        self._memories = {
            layer.layer_id: cast(EngramMemory, layer.engram_memory[adapter_name])
            for layer in layers
            if adapter_name in layer.engram_memory
        }

    @property
    def is_exact(self) -> bool:
        """Whether the memory knows its n-grams."""
        return self._index.memory == "exact"

    def known(self) -> list[list[int]]:
        """The n-grams of an exact memory, as canonical ids, oldest token first."""
        return [[token for token in reversed(row) if token >= 0] for row in self._index.ngrams.tolist()]

    @cached_property
    def spellings(self) -> dict[int, list[int]]:
        """For each canonical id the raw ids that are compressed to it; empty where raw ids are canonical."""
        found: dict[int, list[int]] = {}
        for raw, canonical in enumerate([] if self._index.compression is None else self._index.compression.tolist()):
            found.setdefault(canonical, []).append(raw)
        return found

    def rows_in(self, ids: Sequence[int]) -> dict[int, torch.Tensor]:
        """By layer the rows of the n-grams that lie wholly in a text of raw ids, int64, ascending.

        Of an exact memory those that it knows, of a hashed one those that hold something.
        """
        tokens = torch.tensor([list(ids)], device=self._index.pad.device)
        reading = Reading(tokens, None, len(ids), _no_rows, None)
        orders = tuple(self._index.orders if self.is_exact else self._config.orders)
        found = {}
        for layer, memory in self._memories.items():
            rows = self._index.rows("", layer, reading)[0].cpu()
            rows = rows.unflatten(-1, (len(orders), -1))
            whole = torch.tensor([[at + 1 >= order for order in orders] for at in range(len(ids))])
            wanted = rows[whole].flatten().unique()
            if self.is_exact:
                found[layer] = wanted[wanted != memory.unknown_row]
            else:
                found[layer] = wanted[memory.tables.weight.detach().cpu()[wanted].any(dim=1)]
        return found

    def forget(self, rows: dict[int, torch.Tensor]) -> Edit:
        """Take rows back, given by layer as :meth:`rows_in` gives them."""
        held = {layer: memory.tables.weight.any(dim=1).cpu() for layer, memory in self._memories.items()}
        taken = 0
        for layer, of_layer in rows.items():
            taken += int(held[layer][of_layer].sum())
            with torch.no_grad():
                weight = self._memories[layer].tables.weight
                weight[of_layer.to(weight.device)] = 0
        ngrams: list[list[int]] = []
        if self.is_exact:
            # Rows of the layers are numbered alike.
            gone = torch.cat(list(rows.values())).unique()
            keep = torch.ones(len(self._index.ngram_keys), dtype=torch.bool)
            keep[gone] = False
            known = self.known()
            ngrams = [known[at] for at in gone.tolist()]
            self._keep(keep)
        left = sum(int(memory.tables.weight.any(dim=1).sum()) for memory in self._memories.values())
        return Edit(ngrams, taken, left)

    def keep_only(self, rows: dict[int, torch.Tensor]) -> Edit:
        """Take back every row but these."""
        others = {}
        for layer, memory in self._memories.items():
            holds = memory.tables.weight.detach().any(dim=1).cpu()
            holds[rows[layer]] = False
            others[layer] = holds.nonzero().flatten()
        if self.is_exact:  # Also n-grams that are known and were never trained.
            every = torch.arange(len(self._index.ngram_keys))
            kept = torch.cat(list(rows.values())).unique()
            gone = every[~torch.isin(every, kept)]
            others = {layer: torch.cat([of_layer, gone]).unique() for layer, of_layer in others.items()}
        return self.forget(others)

    def take_in(self, other: Editor) -> int:
        """Add the n-grams of another exact memory with the same projections; how many there are.

        Raises:
            TinyEngramError: The two cannot be one memory.
        """
        self._refuse_unlike(other)
        ngrams = torch.cat([self._index.ngrams, other._index.ngrams])
        keys, order = torch.cat([self._index.ngram_keys, other._index.ngram_keys]).sort(stable=True)
        self._index.ngrams, self._index.ngram_keys = ngrams[order], keys
        for layer, memory in self._memories.items():
            theirs = other._memories[layer].tables.weight
            weight = torch.cat([memory.tables.weight[:-1], theirs[:-1].to(memory.tables.weight)])[order]
            self._replace(memory, torch.cat([weight, memory.tables.weight[-1:]]))
        self._describe()
        return len(other._index.ngram_keys)

    def shared_with(self, other: Editor) -> list[list[int]]:
        """The n-grams that both know, as canonical ids."""
        ours = {tuple(ngram) for ngram in self.known()}
        return [ngram for ngram in other.known() if tuple(ngram) in ours]

    def _refuse_unlike(self, other: Editor) -> None:
        both = "load both instead, active together: model.base_model.set_adapter([name, other])"
        if not (self.is_exact and other.is_exact):
            raise TinyEngramError(f"Only exact memories can be merged: n-grams of hashed ones share rows; {both}.")
        ours, theirs = self._index.fingerprint["base"], other._index.fingerprint["base"]
        if ours != theirs:
            raise TinyEngramError(
                f"The two adapters are of other bases: {ours.get('name', ours)} and {theirs.get('name', theirs)}."
            )
        unlike = [name for name in ("orders", "layer_ids") if getattr(self._index, name) != getattr(other._index, name)]
        unlike += [
            f"block {layer}, {name}"
            for layer, memory in self._memories.items()
            if not unlike
            for name, tensor in memory.state_dict().items()
            if not name.startswith("tables") and not _same(tensor, other._memories[layer].state_dict().get(name))
        ]
        if not unlike and not _same(self._index.compression, other._index.compression):
            unlike = ["the vocabulary map"]
        if not unlike and not _same(self._index.openings, other._index.openings):
            unlike = ["open_after"]
        if unlike:
            raise TinyEngramError(
                f"The two memories differ in {unlike[0]}, so that rows of one mean something else in the other; {both}."
            )
        if shared := self.shared_with(other):
            raise TinyEngramError(
                f"The two memories share {len(shared)} n-grams, such as {shared[:_SHOWN]} (canonical ids): which of "
                "their rows should hold? Take them back in one, then merge."
            )

    def _keep(self, keep: torch.Tensor) -> None:
        """Leave only some of the known n-grams; bool ``(n_known,)``."""
        if not keep.any():
            raise TinyEngramError("Nothing would be left of the memory: use the base itself.")
        index = self._index
        index.ngrams, index.ngram_keys = index.ngrams[keep], index.ngram_keys[keep]
        rows = torch.cat([keep.nonzero().flatten(), torch.tensor([len(keep)])])
        for memory in self._memories.values():
            self._replace(memory, memory.tables.weight[rows.to(memory.tables.weight.device)])
        self._describe()

    def _replace(self, memory: EngramMemory, weight: torch.Tensor) -> None:
        tables = memory.tables
        tables.weight = nn.Parameter(weight.detach().clone(), requires_grad=tables.weight.requires_grad)
        tables.num_embeddings = len(weight)
        memory.unknown_row = tables.padding_idx = tables.silent_row = len(weight) - 1

    def _describe(self) -> None:
        index = self._index
        index.fingerprint = {**index.fingerprint, **index.describe()}
        self._config.current_fingerprint = index.fingerprint


def _same(ours: torch.Tensor | None, theirs: torch.Tensor | None) -> bool:
    return ours is theirs if ours is None or theirs is None else torch.equal(ours, theirs)


def _no_rows(*_: Any) -> torch.Tensor:
    raise AssertionError("Rows are asked of the index itself.")
