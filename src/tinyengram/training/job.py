"""A unit of work: everything that decides what one training run comes to, as plain data with a digest.

A plan is resolved once into jobs. What runs them knows only jobs and whether the result of one is there, in a folder
that its digest names; so a run that is continued, data that was edited meanwhile, two processes at once and one run or
a hundred are all the same thing.
"""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from tinyengram.tasks.errors import TaskError
from tinyengram.tasks.formats import known_format
from tinyengram.training.settings import TrainingSettings

if TYPE_CHECKING:
    from tinyengram.sources import Base

_DIGEST_LENGTH = 16


class BaseSpec(BaseModel):
    """The model that training starts from; see :func:`tinyengram.sources.load_base`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    dtype: str = "float32"
    revision: str | None = None
    trust_remote_code: bool = False


class DataSpec(BaseModel):
    """What is learnt; see ``tasks.chat_data`` (``load_conversations``, ``split``) and ``tasks.rendering``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    format: str = "auto"
    learn: Literal["all", "calls", "last"] = "all"
    revision: str | None = None
    template: Literal["tokenizer", "chatml"] = "tokenizer"
    max_length: int = Field(default=2048, ge=2)
    on_too_long: Literal["drop", "truncate"] = "drop"
    max_bad_rows: int = Field(default=0, ge=0)
    split_seed: int = 42
    eval_fraction: float | None = Field(default=None, gt=0, lt=1)
    eval_limit: int | None = Field(default=200, ge=1)
    train_limit: int | None = Field(default=None, ge=1)

    @field_validator("format")
    @classmethod
    def _known_format(cls, format: str) -> str:
        try:
            known_format(format)
        except TaskError as error:
            raise ValueError(str(error)) from error
        return format


class TrainingJob(BaseModel):
    """One training run. Two jobs are one when everything that they hold is the same.

    Attributes:
        base: The model that is trained on.
        base_checksum: Of its weights (:func:`checksum_of_base`); None where they cannot be read as they are.
        data: What is learnt, and how it is written.
        examples_checksum: Of the token ids and masks that came of it, so that edited data make another job.
        method: PEFT method.
        options: Its options, by PEFT's names.
        settings: How it is trained.
        seed: Of first values, order and dropout.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    base: BaseSpec
    base_checksum: str | None
    data: DataSpec
    examples_checksum: str
    method: str
    options: dict[str, Any]
    settings: TrainingSettings
    seed: int

    @cached_property
    def digest(self) -> str:
        """Sixteen hexadecimal digits over all of it."""
        return hashlib.sha256(json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()[
            :_DIGEST_LENGTH
        ]

    def __hash__(self) -> int:
        return hash(self.digest)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TrainingJob) and self.digest == other.digest


def load_fresh(base: BaseSpec) -> Base:
    """A base of one's own, on this process's accelerator if there is one."""
    from tinyengram.hardware import device
    from tinyengram.sources import load_base

    loaded = load_base(base.name, dtype=base.dtype, revision=base.revision, trust_remote_code=base.trust_remote_code)
    loaded.model.to(device())
    return loaded


def checksum_of_base(base: Base) -> str | None:
    """Of a sample of the weights; None where they cannot be read as they are (quantised, offloaded)."""
    from tinyengram.host import HostError, find_blocks
    from tinyengram.memory.base import weights_digest

    try:
        _, blocks = find_blocks(base.model)
    except HostError:
        return None
    return weights_digest(base.model.get_input_embeddings(), base.model.get_submodule(blocks))


def first_difference(held: Any, wanted: Any, where: str = "") -> str | None:
    """Where two pieces of plain data first differ, in words; None where they are the same."""
    if isinstance(held, dict) and isinstance(wanted, dict):
        for key in [*held, *(key for key in wanted if key not in held)]:
            inner = f"{where}.{key}" if where else str(key)
            if key not in held or key not in wanted:
                return f"{inner} is only in {'its' if key in held else 'the new'} plan"
            difference = first_difference(held[key], wanted[key], inner)
            if difference:
                return difference
        return None
    return None if held == wanted else f"{where} is {held!r} there, {wanted!r} now"
