"""Any trainer can be held to the base: its own loss, and the mean of the divergence, however steps are put together."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed
from trl import SFTConfig, SFTTrainer

from tests.arms import LORA, examples, settings, tiny_base
from tinyengram import HoldToBase
from tinyengram.errors import TinyEngramError
from tinyengram.memory.optim import row_sparse_adamw
from tinyengram.sources import Base, load_tokenizer
from tinyengram.training import peft_config, train_arm
from tinyengram.training.batches import collate, predicting_positions, token_losses
from tinyengram.training.holding import answered_by_base, divergence_from_base
from tinyengram.training.unanswerable import HeldPrompt


class HeldTrainer(HoldToBase, Trainer):
    pass


class HeldSFTTrainer(HoldToBase, SFTTrainer):
    pass


class Gradients(TrainerCallback):
    """The gradient of each optimizer step, unclipped."""

    def __init__(self) -> None:
        self.steps: list[dict[str, torch.Tensor]] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        self.steps.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})


def held_examples(base: Base) -> list:
    prompts = [HeldPrompt([5 + i, 6, 7 + i]) for i in range(7)]
    return answered_by_base(base.model, prompts, pad_token_id=0, new_tokens=4)


def some_rows() -> Dataset:
    ids = [[3 + (i * 7 + j) % 80 for j in range(8)] for i in range(10)]
    return Dataset.from_list([{"input_ids": row, "labels": row} for row in ids])


def stack(batch: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    return {name: torch.tensor([row[name] for row in batch]) for name in batch[0]}


def mean_loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any) -> torch.Tensor:
    return token_losses(outputs.logits, labels).sum() / num_items_in_batch


def held_trainer(folder: Path, kind: str, *, config: Any = None, held: Any = None, **changes: Any) -> Any:
    """A trainer that holds, on a model whose divergence has a gradient from the first step."""
    base = tiny_base()
    torch.manual_seed(0)
    config = config or LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    model: Any = get_peft_model(base.model, config)
    given = {
        "hold_weight": changes.pop("hold_weight", 3.0),
        "hold_batch_size": changes.pop("hold_batch_size", 2),
        "held": held_examples(tiny_base()) if held is None else held,
    }
    options: dict[str, Any] = {
        "output_dir": str(folder),
        "max_steps": 2,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "max_grad_norm": 0.0,
        "logging_steps": 1,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": True,
        **changes,
    }
    if kind == "sft":
        arguments = SFTConfig(**{**options, "bf16": False, "gradient_checkpointing": False})
        more = {"processing_class": load_tokenizer("tiny-random-llama"), "data_collator": None}
        return HeldSFTTrainer(model, arguments, train_dataset=some_rows(), eval_dataset=some_rows(), **more, **given)
    trainer = HeldTrainer(
        model,
        TrainingArguments(**options),
        data_collator=stack,
        train_dataset=some_rows(),
        eval_dataset=some_rows(),
        compute_loss_func=mean_loss if kind == "loss function" else None,
        **given,
    )
    if kind == "mean of a batch":
        trainer.model_accepts_loss_kwargs = False
    return trainer


class TestMixin:
    def test_costs_what_an_arm_pays(self, tmp_path: Path) -> None:
        base, prompts = tiny_base(), [HeldPrompt([5, 6, 7, 8]), HeldPrompt([9, 10, 11]), HeldPrompt([12, 13])]
        chosen = settings(hold_weight=5.0, hold_tokens=4, max_steps=4, eval_every=4, lr_scheduler="constant")
        held = answered_by_base(base.model, prompts, pad_token_id=0, new_tokens=4)
        config = peft_config("lora", LORA, base=base)
        paid: list[float | None] = []
        train_arm(
            arm="a",
            base=base,
            config=config,
            train=examples(16),
            eval=examples(4, seed=1),
            settings=chosen,
            seed=0,
            folder=tmp_path / "arm",
            unanswerable=prompts,
            on_step=lambda event: paid.append(event.loss) if event.eval_loss is None else None,
        )

        def batch_of(part: Any) -> dict[str, torch.Tensor]:
            batch = collate(part, loss_on="answer", pad_token_id=0)
            return {**batch, "logits_to_keep": predicting_positions(batch["labels"])}

        fresh = tiny_base()
        set_seed(0)
        model: Any = get_peft_model(fresh.model, config)
        trainer = HeldTrainer(
            model,
            TrainingArguments(
                output_dir=str(tmp_path / "own"),
                per_device_train_batch_size=chosen.batch_size,
                max_steps=4,
                lr_scheduler_type="constant",
                logging_steps=1,
                seed=0,
                data_seed=0,
                report_to="none",
                save_strategy="no",
                remove_unused_columns=False,
                use_cpu=True,
            ),
            train_dataset=examples(16),
            data_collator=batch_of,
            compute_loss_func=partial(mean_loss),
            optimizers=(
                row_sparse_adamw(model, chosen.learning_rate, weight_decay=chosen.weight_decay, betas=(0.9, 0.95)),
                None,
            ),
            held=held,
            hold_weight=5.0,
        )
        trainer.train()
        assert [entry["loss"] for entry in trainer.state.log_history if "loss" in entry] == paid
        assert trainer.state.log_history[-2]["hold_divergence"] > 0

    @pytest.mark.parametrize("kind", ["loss in the model", "mean of a batch", "loss function", "sft"])
    def test_adds_its_mean_over_the_micro_batches_to_the_gradient(self, tmp_path: Path, kind: str) -> None:
        found: dict[float, list[dict[str, torch.Tensor]]] = {}
        # Ten rows in batches of two are five micro-batches: steps of two, two and one.
        for weight in (0.0, 3.0):
            trainer = held_trainer(tmp_path, kind, hold_weight=weight, learning_rate=0.0, max_steps=3)
            gradients = Gradients()
            trainer.add_callback(gradients)
            trainer.train()
            found[weight] = gradients.steps
        held, model = held_examples(tiny_base()), trainer.model
        at = 0
        for step, micro_batches in enumerate((2, 2, 1)):
            model.zero_grad()
            for micro_batch in range(micro_batches):
                first = (step * 2 + micro_batch) * 2
                part = [held[(first + index) % len(held)] for index in range(2)]
                (3.0 * divergence_from_base(model, part, pad_token_id=0) / micro_batches).backward()
                at += 1
            for name, parameter in model.named_parameters():
                if parameter.requires_grad:
                    added = found[3.0][step][name] - found[0.0][step][name]
                    torch.testing.assert_close(added, parameter.grad, rtol=1e-3, atol=1e-5)
        assert at == 5

    @pytest.mark.parametrize("kind", ["loss in the model", "sft"])
    def test_leaves_evaluation_alone_and_is_logged(self, tmp_path: Path, kind: str) -> None:
        held, free = (held_trainer(tmp_path, kind, hold_weight=weight) for weight in (3.0, 0.0))
        assert held.evaluate()["eval_loss"] == free.evaluate()["eval_loss"]
        for trainer in (held, free):
            trainer.train()
        assert all("hold_divergence" not in entry for entry in free.state.log_history)
        for ours, theirs in zip(held.state.log_history, free.state.log_history, strict=True):
            assert ("hold_divergence" in ours) == ("loss" in ours)
            assert ours.keys() - {"hold_divergence"} == theirs.keys()
        first, other = (next(e for e in t.state.log_history if "loss" in e) for t in (held, free))
        assert first["loss"] == pytest.approx(other["loss"] + 3 * first["hold_divergence"], rel=1e-4)

    def test_holds(self, tmp_path: Path) -> None:
        apart = {}
        for weight in (0.0, 20.0):
            config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
            trainer = held_trainer(tmp_path, "sft", config=config, hold_weight=weight, learning_rate=1e-2, max_steps=10)
            trainer.train()
            apart[weight] = divergence_from_base(trainer.model, held_examples(tiny_base()), pad_token_id=0).item()
        assert 0 < apart[20.0] < 0.5 * apart[0.0]

    def test_a_resumed_run_holds_the_same_examples(self, tmp_path: Path) -> None:
        trainers = []
        for checkpoint in (None, tmp_path / "checkpoint-2"):
            trainer = held_trainer(tmp_path, "loss in the model", max_steps=4, save_strategy="steps", save_steps=2)
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
            trainers.append(trainer)
        for one, other in zip(*(trainer.model.parameters() for trainer in trainers), strict=True):
            assert torch.equal(one, other)

    def test_a_part_that_was_frozen_stays_frozen(self, tmp_path: Path) -> None:
        trainer = held_trainer(tmp_path, "loss in the model")
        for name, parameter in trainer.model.named_parameters():
            if "lora_A" in name:
                parameter.requires_grad_(False)
        trainer.train()
        assert all(p.grad is None for n, p in trainer.model.named_parameters() if "lora_A" in n)
        assert all(not p.requires_grad for n, p in trainer.model.named_parameters() if "lora_A" in n)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"held": []}, r"hold_weight=3\.0 needs examples to hold"),
            ({"hold_weight": -1.0}, r"hold_weight=-1\.0: give 0"),
            ({"hold_batch_size": 0}, "hold_batch_size=0: hold at least one"),
            (
                {"config": LoraConfig(r=4, target_modules="all-linear", init_lora_weights="pissa")},
                "switching off the adapter of this PeftModel does not give its base",
            ),
        ],
    )
    def test_what_makes_no_sense_is_refused(self, tmp_path: Path, changes: dict, message: str) -> None:
        with pytest.raises(TinyEngramError, match=message):
            held_trainer(tmp_path, "loss in the model", **changes)

    def test_a_model_without_a_base_beneath_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(TinyEngramError, match="LlamaForCausalLM does not give its base"):
            HeldTrainer(tiny_base().model, TrainingArguments(str(tmp_path)), held=held_examples(tiny_base()))
