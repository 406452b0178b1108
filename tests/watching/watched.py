"""Tiny runs of a trainer that tests of the callback share, and what they logged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import Trainer, TrainingArguments
from trl import SFTConfig, SFTTrainer

from tinyengram import ForgettingCallback
from tinyengram.sources import Base, load_base
from tinyengram.tasks.questions import TruthfulQuestion

TEXTS = ["A cat sat on the mat and slept.", "Rain fell all day long.", "Bread is made of flour."]
QUESTIONS = [
    TruthfulQuestion(f"q{i}", f"What is {i}?", ("One.", "Two things."), ("One.", "Two things."), (True, False))
    for i in range(3)
]
LORA = LoraConfig(r=4, lora_dropout=0.1, target_modules="all-linear", task_type="CAUSAL_LM")


def spread() -> Base:
    """A tiny base whose predictions differ, so that there is something to forget."""
    base = load_base("tiny-random-llama")
    with torch.no_grad():
        for name, parameter in base.model.named_parameters():
            if "norm" not in name:
                parameter.mul_(4)
    return base


def options(folder: Path, **changes: Any) -> dict[str, Any]:
    return {
        "output_dir": str(folder),
        "max_steps": 6,
        "per_device_train_batch_size": 2,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "seed": 1,
        **changes,
    }


def rows(count: int) -> Dataset:
    return Dataset.from_list(
        [{"input_ids": list(range(10 + i, 26 + i)), "labels": list(range(10 + i, 26 + i))} for i in range(count)]
    )


def plain_trainer(folder: Path, config: Any = LORA, **changes: Any) -> Trainer:
    """A ``Trainer`` on a tiny base; ``config=None`` trains all of it."""
    base = spread()
    torch.manual_seed(0)
    model: Any = base.model if config is None else get_peft_model(base.model, config)
    eval_dataset = changes.pop("eval_dataset", rows(4))
    return Trainer(
        model,
        TrainingArguments(**options(folder, **changes)),
        train_dataset=rows(40),
        eval_dataset=eval_dataset,
        processing_class=base.tokenizer,
        data_collator=lambda batch: {name: torch.tensor([row[name] for row in batch]) for name in batch[0]},
    )


def sft_trainer(folder: Path, **changes: Any) -> SFTTrainer:
    base = spread()
    torch.manual_seed(0)
    arguments = {"bf16": False, "gradient_checkpointing": False, **options(folder, **changes)}
    return SFTTrainer(
        base.model,
        SFTConfig(**arguments),
        train_dataset=rows(40),
        eval_dataset=rows(4),
        processing_class=base.tokenizer,
        peft_config=LORA,
    )


def watch(trainer: Trainer, **changes: Any) -> ForgettingCallback:
    callback = ForgettingCallback(trainer, **{"texts": TEXTS, "questions": QUESTIONS, **changes})
    trainer.add_callback(callback)
    return callback


def forgotten(trainer: Trainer) -> dict[int, dict[str, float]]:
    """Figures by step; the time that they took is taken out."""
    return {
        entry["step"]: {name: value for name, value in entry.items() if "runtime" not in name}
        for entry in trainer.state.log_history
        if "eval_forgetting_kl" in entry
    }


def others(trainer: Trainer) -> list[dict[str, float]]:
    """All else that was logged, without times."""
    return [
        {name: value for name, value in entry.items() if not name.endswith(("runtime", "per_second"))}
        for entry in trainer.state.log_history
        if "eval_forgetting_kl" not in entry
    ]
