"""How an arm is trained, in the names of ``transformers.TrainingArguments``."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class TrainingSettings(BaseModel):
    """How an arm is trained; the names are those of ``transformers.TrainingArguments`` where it has them.

    ``table_learning_rate_factor`` stands for the option of that name of every Engram arm; by default each has its own.
    ``hold_weight`` above 0 teaches any method when not to speak: each step also reads ``hold_batch_size`` of
    ``hold_prompts`` prompts to which a call is the wrong answer (see :mod:`tinyengram.training.holding`), and adds the
    Kullback-Leibler divergence from the base on ``hold_tokens`` tokens of the base's own answer, times the weight.
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
    hold_batch_size: int = Field(default=2, ge=1)
    hold_tokens: int = Field(default=16, ge=1)

    @model_validator(mode="after")
    def _one_length(self) -> TrainingSettings:
        if (self.max_steps is None) == (self.epochs is None):
            raise ValueError("give exactly one of max_steps and epochs")
        return self
