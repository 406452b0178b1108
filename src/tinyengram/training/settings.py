"""How an arm is trained, in the names of ``transformers.TrainingArguments``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

HoldKind = Literal["no_tools", "other_tools", "own_tools_without", "after_result"]
"""``no_tools``: a request without tools; ``other_tools``: with another example's; ``own_tools_without``: with its own
but for those that the right answer calls, or where none is left with the others' that are most like them;
``after_result``: a turn behind a tool's result that calls nothing."""

HELD: dict[HoldKind, float] = {"no_tools": 0.2, "other_tools": 0.2, "own_tools_without": 0.5, "after_result": 0.1}
"""Shares of the prompts where nothing else is said; what data do not have goes to the other kinds."""


class TrainingSettings(BaseModel):
    """How an arm is trained; the names are those of ``transformers.TrainingArguments`` where it has them.

    ``table_learning_rate_factor`` stands for the option of that name of every Engram arm; by default each has its own.
    ``hold_weight`` above 0 teaches any method when not to speak: each step also reads ``hold_batch_size`` of
    ``hold_prompts`` prompts to which a call is the wrong answer (see :mod:`tinyengram.training.unanswerable`), of each
    of the ``hold_kinds`` its share, and adds the Kullback-Leibler divergence from the base on ``hold_tokens`` tokens of
    the base's own answer, times the weight.
    """

    model_config = ConfigDict(extra="forbid")

    learning_rate: float = Field(gt=0)
    loss_on: Literal["whole", "answer"] = "whole"
    batch_size: int = Field(default=4, ge=1)
    gradient_accumulation: int = Field(default=1, ge=1)
    max_steps: int | None = Field(default=None, ge=1)
    epochs: float | None = Field(default=None, gt=0)
    eval_every: int = Field(default=50, ge=1)
    eval_batch_size: int | None = Field(default=None, ge=1)
    warmup_ratio: float = Field(default=0.03, ge=0, lt=1)
    lr_scheduler: str = "cosine"
    weight_decay: float = Field(default=0.005, ge=0)
    adam_beta2: float = Field(default=0.95, gt=0, lt=1)
    max_grad_norm: float = Field(default=1.0, ge=0)
    bf16: bool = False
    table_learning_rate_factor: float | None = Field(default=None, gt=0)
    hold_weight: float = Field(default=0.0, ge=0)
    hold_prompts: int = Field(default=64, ge=2)
    hold_kinds: dict[HoldKind, Annotated[float, Field(ge=0)]] = Field(default_factory=lambda: dict(HELD))
    hold_batch_size: int = Field(default=2, ge=1)
    hold_tokens: int = Field(default=16, ge=1)

    @model_validator(mode="after")
    def _one_length(self) -> TrainingSettings:
        if (self.max_steps is None) == (self.epochs is None):
            raise ValueError("give exactly one of max_steps and epochs")
        if not any(self.hold_kinds.values()):
            raise ValueError(f"hold_kinds={self.hold_kinds} leaves no prompt; give at least one kind a share above 0")
        return self
