"""The ``transformers.Trainer`` of an arm: both eval losses at every stop, logits only where the loss needs them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from tinyengram.hardware import device
from tinyengram.memory.optim import dense_adamw, row_sparse_adamw
from tinyengram.processes import share_of_each, steps_by_rows
from tinyengram.progress import StepEvent
from tinyengram.training.adapters import note_base
from tinyengram.training.batches import IGNORED, collate, predicting_positions, token_losses
from tinyengram.training.holding import HeldExample, HoldToBase
from tinyengram.training.losses import eval_losses
from tinyengram.training.settings import TrainingSettings
from tinyengram.training.trajectory import Trajectory, TrajectoryPoint, keep_adapter_only, write_trajectory
from tinyengram.training.upkeep import Allocation, PromptEncoder, own_penalty
from tinyengram.virtual_tokens import takes_positions

if TYPE_CHECKING:
    from tinyengram.tasks.rendering import EncodedExample


@dataclass(frozen=True)
class Lessons:
    """What is learnt in a run: examples to train on, others to measure by, and answers to stay with the base at.

    Attributes:
        train: In the order that the seed shuffles.
        held_out: Never trained on.
        held: From :func:`tinyengram.training.holding.answered_by_base`; empty unless the base is held to.
    """

    train: Sequence[EncodedExample]
    held_out: Sequence[EncodedExample]
    held: Sequence[HeldExample]


@dataclass(frozen=True)
class Batcher:
    """Examples become a batch; a model that takes positions is asked for the logits that the loss needs alone."""

    loss_on: str
    pad_token_id: int
    takes_positions: bool

    def __call__(self, examples: Sequence[EncodedExample]) -> dict[str, torch.Tensor]:
        batch = collate(examples, loss_on=self.loss_on, pad_token_id=self.pad_token_id)
        if self.takes_positions:
            batch["logits_to_keep"] = predicting_positions(batch["labels"])
        return batch


def mean_token_loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
    """Mean cross-entropy over the labels of a step, of which this batch may be a part; a scalar in nats."""
    losses = token_losses(outputs.logits, labels)
    return losses.sum() / (num_items_in_batch if num_items_in_batch is not None else (labels != IGNORED).sum())


class ArmTrainer(HoldToBase, Trainer):
    """Trains a PEFT model on lessons, held to its base where they say so.

    Its optimizer is AdamW that steps only the rows of tables that were read.

    Args:
        model: From ``get_peft_model``.
        lessons: What is learnt.
        settings: How.
        pad_token_id: Fills up batches.
        keeper: Keeps the trajectory.
        **options: Of ``transformers.Trainer``.
    """

    model: nn.Module

    def __init__(
        self,
        model: Any,
        lessons: Lessons,
        settings: TrainingSettings,
        pad_token_id: int,
        keeper: TrajectoryKeeper,
        **options: Any,
    ) -> None:
        super().__init__(
            model=model,
            train_dataset=list(lessons.train),
            eval_dataset=list(lessons.held_out),
            data_collator=Batcher(settings.loss_on, pad_token_id, takes_positions(model)),
            compute_loss_func=mean_token_loss,
            callbacks=[*(kind(model, keeper.folder) for kind in (Allocation, PromptEncoder)), keeper],
            held=lessons.held,
            hold_weight=settings.hold_weight if lessons.held else 0.0,
            hold_batch_size=share_of_each(settings.hold_batch_size, "hold_batch_size") if lessons.held else 1,
            **options,
        )
        self.remove_callback(PrinterCallback)
        self._lessons, self._settings, self._padding = lessons, settings, pad_token_id

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            how = self._settings
            make = row_sparse_adamw if steps_by_rows(self.args) else dense_adamw
            self.optimizer = make(
                self.model,
                how.learning_rate,
                weight_decay=how.weight_decay,
                betas=(0.9, how.adam_beta2),
                table_learning_rate_factor=how.table_learning_rate_factor,
            )
        return self.optimizer

    def _pad_token_id(self) -> int:
        return self._padding

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        loss: Any = super().compute_loss(model, inputs, *args, **kwargs)
        if not model.training:
            return loss
        return loss + own_penalty(self.model) / self._settings.gradient_accumulation

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        whole, answer = eval_losses(
            self.model,
            self._lessons.held_out,
            batch_size=self.args.per_device_eval_batch_size,
            pad_token_id=self._padding,
        )
        trained = whole if self._settings.loss_on == "whole" else answer
        metrics = {"eval_loss": trained, "eval_loss_whole": whole, "eval_loss_answer": answer}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


def training_arguments(settings: TrainingSettings, seed: int, folder: Path) -> TrainingArguments:
    """The arguments of an arm's trainer; the start is measured before, on the base itself."""
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=share_of_each(settings.batch_size, "batch_size"),
        per_device_eval_batch_size=settings.eval_batch_size or settings.batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation,
        max_steps=settings.max_steps or -1,
        num_train_epochs=settings.epochs or 1.0,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.lr_scheduler,
        warmup_steps=settings.warmup_ratio,
        weight_decay=settings.weight_decay,
        adam_beta2=settings.adam_beta2,
        max_grad_norm=settings.max_grad_norm,
        bf16=settings.bf16,
        eval_strategy="steps",
        eval_steps=settings.eval_every,
        save_strategy="steps",
        save_steps=settings.eval_every,
        logging_strategy="steps",
        logging_steps=1,
        logging_nan_inf_filter=False,  # A run that breaks down must be seen to.
        include_num_input_tokens_seen="non_padding",
        seed=seed,
        data_seed=seed,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        use_cpu=device().type == "cpu",  # Else processes on CPUs would not be joined.
        dataloader_pin_memory=torch.cuda.is_available(),
    )
    # One process drives one device; several devices are for `torchrun` or `accelerate launch`.
    arguments._n_gpu = min(1, arguments.n_gpu)
    return arguments


class TrajectoryKeeper(TrainerCallback):
    """Writes the trajectory once a checkpoint is whole, tells how the arm is doing, and stops a run that breaks down.

    Args:
        folder: Of the run.
        trajectory: What was measured so far; grows.
        on_step: Told after every step and at every stop; None: nobody is.
        base: Written beside every adapter; see :func:`tinyengram.training.adapters.describe_base`.
    """

    def __init__(
        self,
        folder: Path,
        trajectory: Trajectory,
        on_step: Callable[[StepEvent], None] | None,
        base: dict[str, Any],
    ) -> None:
        self.folder = folder
        self._trajectory, self._on_step, self._base = trajectory, on_step, base
        self._pending: TrajectoryPoint | None = None
        self._before = trajectory.points[-1].seconds if trajectory.points else 0.0
        self._begun = time.monotonic()
        self._first_step = self._first_tokens = 0
        self._losses: list[float] = []  # Of the steps since the last stop.

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._begun = time.monotonic()
        self._first_step, self._first_tokens = state.global_step, state.num_input_tokens_seen

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step >= state.max_steps:
            control.should_evaluate = control.should_save = True

    def on_log(self, args: Any, state: Any, control: Any, logs: dict | None = None, **_: Any) -> None:
        if logs and "loss" in logs:
            self._losses.append(logs["loss"])
            self._tell(state, None)
            if not math.isfinite(logs["loss"]):
                self._break_down(state, control)

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict | None = None, **_: Any) -> None:
        assert metrics is not None
        if not math.isfinite(metrics["eval_loss_whole"]):
            self._break_down(state, control)
            return
        self._pending = TrajectoryPoint(
            step=state.global_step,
            tokens=int(state.num_input_tokens_seen),
            seconds=self._before + time.monotonic() - self._begun,
            train_loss=fmean(self._losses) if self._losses else None,
            eval_loss_whole=metrics["eval_loss_whole"],
            eval_loss_answer=metrics["eval_loss_answer"],
            checkpoint=f"checkpoint-{state.global_step}",
        )
        self._tell(state, metrics["eval_loss"])
        self._losses.clear()

    def _break_down(self, state: Any, control: Any) -> None:
        """Stop here: what comes after a loss that is not finite is not finite either."""
        self._trajectory.broke_down_at = state.global_step
        control.should_training_stop = True
        control.should_evaluate = control.should_save = False

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        previous = self._trajectory.points[-1].checkpoint if self._trajectory.points else None
        if not args.process_index:
            note_base(self.folder / f"checkpoint-{state.global_step}", self._base)
        self._commit(args)
        if previous and not args.process_index:
            keep_adapter_only(self.folder / previous)

    def _commit(self, args: Any) -> None:
        points = self._trajectory.points
        if self._pending is not None and self._pending.step not in {point.step for point in points}:
            points.append(self._pending)
            if not args.process_index:
                write_trajectory(self.folder, self._trajectory)
        self._pending = None

    def _tell(self, state: Any, eval_loss: float | None) -> None:
        if self._on_step is None:
            return
        seconds = max(time.monotonic() - self._begun, 1e-9)
        steps = state.global_step - self._first_step
        self._on_step(
            StepEvent(
                arm=self._trajectory.arm,
                seed=self._trajectory.seed,
                step=state.global_step,
                total_steps=state.max_steps,
                loss=self._losses[-1] if self._losses else None,
                tokens_per_second=(state.num_input_tokens_seen - self._first_tokens) / seconds,
                seconds_left=(state.max_steps - state.global_step) * seconds / steps if steps else float("nan"),
                eval_loss=eval_loss,
            )
        )
