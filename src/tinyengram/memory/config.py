"""What an Engram memory is: its sizes, where it sits and how its rows are found. The manual of the method."""

from __future__ import annotations

import difflib
import json
import math
import warnings
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, Literal

from peft import PeftConfig

from tinyengram.memory.latch import check_opening
from tinyengram.memory.ngrams import KnownNgrams


class EngramPeftType(StrEnum):
    """Name of the method in PEFT's registries and in ``adapter_config.json``; PEFT's own enum cannot be extended."""

    ENGRAM = "ENGRAM"

    def __str__(self) -> str:
        return f"{type(self).__name__}.{self.name}"  # PEFT's status takes what stands behind the dot.


ENGRAM = EngramPeftType.ENGRAM
# What one says of a load, not of a memory.
_NOT_SAVED = ("check_base", "check_tensors", "tables_on")
# Options of other methods that say where an adapter sits.
_BLOCKS_ELSEWHERE = ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern")


@dataclass
class EngramConfig(PeftConfig):
    """Configuration of an Engram memory, a PEFT method for decoder-only language models.

    Before each block in ``layer_ids`` the memory looks up the n-grams that end at a position, weighs what it finds by
    how well it fits the hidden state, and adds it to the residual stream (arXiv 2601.07372, section 2). The base stays
    frozen. With the default initialisation the tables are zero, so an untrained memory changes no bit of the output
    and a row that no training token touched stays silent for ever.

    Args:
        layer_ids: Blocks that read memory, counted from 0.
        max_ngram_size: Longest n-gram, N; orders 2 … N are read.
        memory: ``"hashed"`` (the paper): every n-gram falls on some row of a fixed table. ``"exact"``: only the
            n-grams in ``ngrams`` have a row, every other one contributes exactly nothing.
        ngrams: The known n-grams of an exact memory, from :func:`tinyengram.collect_ngrams`. Stored in the adapter.
        engram_vocab_size: Hashed memory: least rows per head for each order 2 … N; each head has as many rows as the
            next unused prime.
        n_embed_per_ngram: Width of what is read for each order, over all heads.
        n_head_per_ngram: Hashed memory: independent hash heads per order.
        kernel_size: Taps of the causal depthwise convolution over what was read (dilation N); 0 leaves it out.
        gate: ``"sigmoid"`` (the paper): between 0 and 1 but never at either. ``"hard"``: reaches exactly 0, so that a
            memory can learn to stay shut where its n-grams mean something else.
        open_after: The latch: what a text must hold before the memory adds anything to it, from there to its end; None:
            always open. ``"tools"``: what the chat template of the base's tokenizer writes where tools are offered;
            any other text; or raw token ids, one run or several of which any opens. A saved adapter keeps the ids.
        tokenizer_name_or_path: Tokenizer whose vocabulary is compressed (tokens that differ in case, accents or white
            space only are one). ``None`` uses raw token ids. Only needed when the memory is made: the adapter keeps
            the map.
        pad_token_id: Token that stands for the positions before a text begins. ``None`` takes the base's pad token,
            else its end token, else 0.
        seed: Seed of the hash multipliers.
        init: ``"zero_tables"`` (default), ``"zero_value"`` (the paper's random tables, value projection from zero) or
            ``"paper"`` (random tables and projections: an untrained memory already moves the base).
        trainable_tables: ``False`` freezes the tables at their first values, a control.
        table_learning_rate_factor: Learning rate of the tables over that of everything else (the paper's, section 4.1):
            under ``transformers.Trainer``, TRL and :func:`tinyengram.memory.optim.row_sparse_adamw`.
        rows: ``"ngram"``: an n-gram reads its own rows. Two controls, in which no n-gram can be told from another, so
            that what is then learned does not come from memory: ``"shuffled"`` permutes the rows of each head afresh
            at every call of training, ``"single"`` reads one row per head (in an exact memory: per order) whatever the
            n-gram.
        modules_to_save: Further modules of the base to train and save whole, as everywhere in PEFT.
        fingerprint: Written by ``save_pretrained``; identifies the base that the adapter belongs to. Set it to None to
            make a new memory with the options of a saved one.
        check_base: ``False`` loads an adapter on a base of the same shape with other weights:
            ``PeftModel.from_pretrained(base, folder, config=EngramConfig.from_pretrained(folder, check_base=False))``.
            Not saved.
        check_tensors: ``False`` takes tensors that were edited after saving (halved, averaged), whose checksum is no
            longer theirs; names and shapes must still fit. Given as ``check_base``, or set on
            ``model.peft_config[name]`` before ``set_peft_model_state_dict``. Not saved.
        tables_on: ``"device"``: tables lie where their block does. ``"cpu"``: they stay in host memory, also when the
            model is moved, and the rows that a text needs are brought to the block; for tables larger than a device.
            Loaded for inference they are mapped from the adapter's file, which must then not be overwritten, if it
            holds whole tables, else built from its rows. ``"ranks"``: of several processes each holds its own rows and
            asks others for theirs; alone, as ``"device"``. Given as ``check_base``. Not saved.

    Raises:
        ValueError: A size, layer or name cannot be used; the message says which and what can.

    Example:
        >>> config = EngramConfig(layer_ids=[1, 2], max_ngram_size=3, engram_vocab_size=[500, 100])
        >>> config.row_width
        64
    """

    layer_ids: list[int] = field(default_factory=lambda: [1, 2, 3, 4])
    max_ngram_size: int = 4
    memory: Literal["hashed", "exact"] = "hashed"
    ngrams: KnownNgrams | None = field(default=None, repr=False, compare=False)
    engram_vocab_size: list[int] = field(default_factory=lambda: [500, 100, 100])
    n_embed_per_ngram: int = 1024
    n_head_per_ngram: int = 16
    kernel_size: int = 4
    gate: Literal["sigmoid", "hard"] = "sigmoid"
    open_after: str | list[int] | list[list[int]] | None = None
    tokenizer_name_or_path: str | None = None
    pad_token_id: int | None = None
    seed: int = 0
    init: Literal["zero_tables", "zero_value", "paper"] = "zero_tables"
    trainable_tables: bool = True
    table_learning_rate_factor: float = 5.0
    rows: Literal["ngram", "shuffled", "single"] = "ngram"
    modules_to_save: list[str] | None = None
    fingerprint: dict[str, Any] | None = field(default=None, repr=False)
    check_base: bool = True
    check_tensors: bool = True
    tables_on: Literal["device", "cpu", "ranks"] = "device"

    def __new__(cls, *_: Any, **options: Any) -> EngramConfig:
        # Asked here because PEFT, on reading a file, drops options that `__init__` does not know with a warning only.
        # That is right for an option that a later PEFT wrote, but not for one of ours, which decides what is read.
        known = {option.name for option in fields(cls)}
        ours = (options.get("fingerprint") or {}).get("options", ())
        for name in options:
            from_a_file = "peft_type" in options
            # In a file only a slip of the pen is taken for one of ours: PEFT's next option may sound like one.
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.9 if from_a_file else 0.6)
            if name in known or (from_a_file and name not in ours and not close):
                continue
            if name == "trainable_token_indices":
                raise TypeError(
                    "'trainable_token_indices' is no option of Engram, which leaves the embedding as it is. Train "
                    "whole modules with modules_to_save, or put the memory on top of a LoRA that trains those tokens."
                )
            if name in _BLOCKS_ELSEWHERE:
                hint = "Engram reads before whole blocks, counted from 0: name them with layer_ids."
            else:
                hint = f"Did you mean {close[0]!r}?" if close else f"Known: {', '.join(sorted(known))}."
            # By Python's own words PEFT knows a file that is no adapter's config, and says what that file lacks.
            unknown = "" if from_a_file else f" ({cls.__name__} got an unexpected keyword argument)"
            raise TypeError(f"{name!r} is no option of Engram{unknown}. {hint}")
        return super().__new__(cls)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = ENGRAM
        # PEFT's injection reads this attribute; EngramModel fills it with the blocks at `layer_ids`.
        self.target_modules: set[str] | None = None
        # What `save_pretrained` writes as `fingerprint`, of the adapter that is being saved: kept apart, so that one
        # config can serve several bases.
        self.current_fingerprint: dict[str, Any] | None = None
        self._check()

    @property
    def orders(self) -> range:
        """The n-gram orders that are read: 2 … ``max_ngram_size``."""
        return range(2, self.max_ngram_size + 1)

    @property
    def heads(self) -> int:
        """Rows read per order and position: an exact memory has no collisions to average out, so one."""
        return self.n_head_per_ngram if self.memory == "hashed" else 1

    @property
    def row_width(self) -> int:
        """Width of one table row."""
        return self.n_embed_per_ngram // self.heads

    def _check(self) -> None:
        """Refuse what cannot work, naming the value, the limit and the remedy."""
        for name, each in (("layer_ids", "block index"), ("engram_vocab_size", "size")):
            value = getattr(self, name)
            if not isinstance(value, list | tuple | range) or not value:
                raise ValueError(f"{name}={value!r}: give a list with at least one {each}, such as [1, 2].")
            setattr(self, name, list(value))  # What a file can hold.
        if any(isinstance(layer, bool) or not isinstance(layer, int) or layer < 0 for layer in self.layer_ids):
            raise ValueError(f"layer_ids={self.layer_ids!r}: every entry must be an integer from 0 on.")
        repeated = sorted({layer for layer in self.layer_ids if self.layer_ids.count(layer) > 1})
        if repeated:
            raise ValueError(f"layer_ids={self.layer_ids!r} names {repeated} more than once; name each block once.")
        for name, least in (
            ("max_ngram_size", 2),
            ("n_embed_per_ngram", 1),
            ("n_head_per_ngram", 1),
            ("kernel_size", 0),
            ("seed", 0),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name}={value!r} must be an integer of at least {least}.")
        factor = self.table_learning_rate_factor
        if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 < factor < math.inf:
            raise ValueError(f"table_learning_rate_factor={factor!r} must be a number above 0, such as 5.0.")
        check_opening(self.open_after)
        if self.pad_token_id is not None and (
            isinstance(self.pad_token_id, bool) or not isinstance(self.pad_token_id, int)
        ):
            raise ValueError(f"pad_token_id={self.pad_token_id!r} must be a token's id or None.")
        for name in ("trainable_tables", "check_base", "check_tensors"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name}={getattr(self, name)!r} must be True or False.")
        for name, allowed in (
            ("memory", ("hashed", "exact")),
            ("gate", ("sigmoid", "hard")),
            ("init", ("zero_tables", "zero_value", "paper")),
            ("rows", ("ngram", "shuffled", "single")),
            ("tables_on", ("device", "cpu", "ranks")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r} is unknown; choose one of {', '.join(allowed)}.")
        if self.memory == "exact":
            self._check_exact()
        else:
            self._check_hashed()

    def _check_hashed(self) -> None:
        if self.ngrams is not None:
            raise ValueError("ngrams is for memory='exact'; a hashed memory gives every n-gram a row.")
        if len(self.engram_vocab_size) != len(self.orders):
            raise ValueError(
                f"engram_vocab_size={self.engram_vocab_size!r} needs one size for each order 2…{self.max_ngram_size}, "
                f"that is {len(self.orders)} sizes."
            )
        if any(isinstance(size, bool) or not isinstance(size, int) or size < 1 for size in self.engram_vocab_size):
            raise ValueError(f"engram_vocab_size={self.engram_vocab_size!r}: every size must be an integer from 1 on.")
        if self.n_embed_per_ngram % self.n_head_per_ngram:
            raise ValueError(
                f"n_embed_per_ngram={self.n_embed_per_ngram} cannot be divided among "
                f"n_head_per_ngram={self.n_head_per_ngram} heads; make it a multiple."
            )

    def _check_exact(self) -> None:
        if self.ngrams is None:
            if self.fingerprint is None:
                raise ValueError(
                    "memory='exact' needs ngrams=collect_ngrams(...): the n-grams that may open it, from the "
                    "training data."
                )
            return
        if not isinstance(self.ngrams, KnownNgrams):
            raise ValueError(
                f"ngrams is a {type(self.ngrams).__name__}; give the KnownNgrams that collect_ngrams(...) returns."
            )
        if (self.ngrams.vocabulary is None) != (self.tokenizer_name_or_path is None):
            raise ValueError(
                "ngrams were collected on "
                + ("raw token ids" if self.ngrams.vocabulary is None else "a compressed vocabulary")
                + f" but tokenizer_name_or_path={self.tokenizer_name_or_path!r}; collect them with "
                "compression=compress_vocabulary(tokenizer) exactly when tokenizer_name_or_path is set."
            )
        if self.ngrams.orders[-1] > self.max_ngram_size:
            raise ValueError(
                f"ngrams holds n-grams of order {self.ngrams.orders[-1]} but max_ngram_size={self.max_ngram_size}; "
                "raise max_ngram_size or collect shorter ones."
            )

    @property
    def from_file(self) -> dict[str, Any] | None:
        """The stored fingerprint, where the memory is to be loaded; None where one is made, as with new n-grams."""
        return self.fingerprint if self.ngrams is None else None

    @classmethod
    def own_options(cls) -> list[str]:
        """Names of the options that are ours and not PEFT's."""
        theirs = {option.name for option in fields(PeftConfig)}
        return sorted(option.name for option in fields(cls) if option.name not in theirs | set(_NOT_SAVED))

    def identities(self) -> list[str]:
        """What decides the output besides the weights, as JSON: saved in the checksum, so that no edit goes unseen.

        The first is that of what is saved now; another, where there is one, is that of the file it was loaded from.
        """
        names = ["layer_ids", "max_ngram_size", "memory", "kernel_size", "gate", "rows", "n_embed_per_ngram"]
        if self.memory == "hashed":
            names += ["engram_vocab_size", "n_head_per_ngram", "seed"]
        if self.open_after is not None:  # Adapters that were saved before there was a latch have no such option.
            names.append("open_after")
        options = {name: getattr(self, name) for name in names}
        current = self.current_fingerprint or self.fingerprint
        fingerprints = [current, self.fingerprint] if self.fingerprint is not None else [current]
        return [json.dumps([options, fingerprint], sort_keys=True) for fingerprint in fingerprints]

    def to_dict(self) -> dict[str, Any]:
        """The options as plain values for ``adapter_config.json``; the known n-grams are saved as tensors instead."""
        ngrams, self.ngrams = self.ngrams, None
        try:
            options = super().to_dict()
        finally:
            self.ngrams = ngrams
        return {name: value for name, value in options.items() if name not in _NOT_SAVED}

    def save_pretrained(self, save_directory: str, **kwargs: Any) -> None:
        """Write ``adapter_config.json``. Known n-grams are tensors, which only a model's ``save_pretrained`` writes."""
        if self.ngrams is not None and self.current_fingerprint is None:
            warnings.warn(
                "The n-grams of an exact memory are not saved with its options; save the model "
                "(model.save_pretrained), or give ngrams= again.",
                stacklevel=2,
            )
        given, self.fingerprint = self.fingerprint, self.current_fingerprint or self.fingerprint
        try:
            super().save_pretrained(save_directory, **kwargs)
        finally:
            self.fingerprint = given
