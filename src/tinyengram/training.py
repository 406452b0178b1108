"""One arm of a study: a base, a PEFT method and examples become checkpoints and a trajectory.

``transformers.Trainer`` does the training. What is ours: both eval losses at every stop, logits only where the loss
needs them, and a trajectory file that names exactly the checkpoints that are whole, so that a run that was killed
continues from the last of them and ends with the same numbers to the bit.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tinyengram.batches import IGNORED, collate, predicting_positions, token_losses
from tinyengram.errors import TinyEngramError, nearest
from tinyengram.files import write_atomically
from tinyengram.host import peft_methods, takes_argument

if TYPE_CHECKING:
    import torch
    from peft import PeftConfig
    from torch import nn

    from tinyengram.sources import Base
    from tinyengram.tasks.rendering import EncodedExample

_TRAJECTORY_FILE = "trajectory.json"


class TrainingSettings(BaseModel):
    """How an arm is trained; the names are those of ``transformers.TrainingArguments`` where it has them.

    ``hold_weight`` above 0 teaches any method when not to speak: each step also reads ``hold_batch_size`` of
    ``hold_prompts`` prompts to which a call is the wrong answer (see :mod:`tinyengram.holding`), and adds the
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
    table_learning_rate_factor: float = Field(default=5.0, gt=0)
    hold_weight: float = Field(default=0.0, ge=0)
    hold_prompts: int = Field(default=64, ge=2)
    hold_batch_size: int = Field(default=2, ge=1)
    hold_tokens: int = Field(default=16, ge=1)

    @model_validator(mode="after")
    def _one_length(self) -> TrainingSettings:
        if (self.max_steps is None) == (self.epochs is None):
            raise ValueError("give exactly one of max_steps and epochs")
        return self


class _Record(BaseModel):
    model_config = ConfigDict(ser_json_inf_nan="constants")  # JSON's null would not read back as a number.


class TrajectoryPoint(_Record):
    """What was measured at one stop of a training run; losses are means over tokens, in nats.

    ``train_loss`` is the mean over the steps since the stop before.
    """

    step: int
    tokens: int
    seconds: float
    train_loss: float | None
    eval_loss_whole: float
    eval_loss_answer: float
    checkpoint: str | None


class Trajectory(_Record):
    """The stops of one arm with one seed, in order of steps; step 0 is the base itself."""

    arm: str
    seed: int
    method: str
    learning_rate: float
    trainable_parameters: int
    loss_on: Literal["whole", "answer"]
    points: list[TrajectoryPoint]
    finished: bool


@dataclass(frozen=True)
class StepEvent:
    """News of a running arm. ``eval_loss`` (of the loss that is trained) only comes at stops."""

    arm: str
    seed: int
    step: int
    total_steps: int
    loss: float | None
    tokens_per_second: float
    seconds_left: float
    eval_loss: float | None


def peft_config(
    method: str, options: dict[str, Any], *, base: Base, train: Sequence[EncodedExample] | None = None
) -> PeftConfig:
    """Make the PEFT config of an arm from its name and options.

    Engram arms read with the base's own tokenizer unless ``tokenizer_name_or_path`` says otherwise (null: raw ids). For
    ``memory: exact`` the option ``ngrams`` holds the arguments of :func:`tinyengram.collect_ngrams`, applied to
    ``train``.

    Args:
        method: A PEFT method, in any case: ``lora``, ``engram``, ``osf``, …
        options: Its options, by PEFT's names.
        base: The base that will be adapted.
        train: Training examples, for methods that look at them.

    Raises:
        TinyEngramError: The method or an option is unknown, or a value is refused; names the nearest.
    """
    import tinyengram.memory  # noqa: F401 - makes Engram known to PEFT

    known = peft_methods()
    if method.lower() not in known:
        raise TinyEngramError(f"PEFT method {method!r} is unknown.{nearest(method.lower(), known)}")
    config_class = known[method.lower()]
    allowed = {field.name for field in dataclasses.fields(config_class)} - {"fingerprint", "peft_type", "auto_mapping"}
    for name in options:
        if name not in allowed:
            raise TinyEngramError(f"Option {name!r} is unknown to the PEFT method {method!r}.{nearest(name, allowed)}")
    options = {"task_type": "CAUSAL_LM", **options}
    if method.lower() == "engram":
        options.setdefault("tokenizer_name_or_path", base.tokenizer.name_or_path)
        options.setdefault("pad_token_id", base.tokenizer.pad_token_id or 0)
        if options.get("memory") == "exact":
            options["ngrams"] = _collect(options, base, train or [])
    try:
        return config_class(**options)
    except (TypeError, ValueError) as error:
        raise TinyEngramError(f"The options of {method!r} are refused: {error}") from error


def _collect(options: dict[str, Any], base: Base, train: Sequence[EncodedExample]) -> Any:
    """The known n-grams of an exact memory: those that end where a token of the answer is to be predicted."""
    from tinyengram.memory import collect_ngrams, compress_vocabulary

    if not train:
        raise TinyEngramError("memory='exact' collects its n-grams from training examples, and there are none.")
    arguments = dict(options.get("ngrams") or {})
    tokenizer = options["tokenizer_name_or_path"]
    compression = compress_vocabulary(base.tokenizer) if tokenizer is not None else None
    try:
        return collect_ngrams(
            [example.input_ids for example in train],
            [example.answer_mask for example in train],
            compression=compression,
            pad_token_id=options["pad_token_id"],
            **arguments,
        )
    except (TypeError, ValueError) as error:
        raise TinyEngramError(f"ngrams={arguments!r} is refused: {error}") from error


def check_config(config: PeftConfig, base: Base) -> int:
    """Refuse, before anything is trained, a config that does not fit the base.

    The adapter is put on a copy of the base without weights, or with them if the method needs them.

    Returns:
        Number of trainable parameters.

    Raises:
        TinyEngramError: PEFT or the method refuses; its reason is passed on.
    """
    import copy

    import torch
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    def adapted(hollow: bool) -> int:
        with torch.device("meta") if hollow else nullcontext():
            model: Any = AutoModelForCausalLM.from_config(base.model.config) if hollow else copy.deepcopy(base.model)
            model = get_peft_model(model, copy.deepcopy(config))
        return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)

    try:
        try:
            return adapted(hollow=True)
        except (NotImplementedError, RuntimeError):  # The method looks at the base's weights.
            return adapted(hollow=False)
    except (ValueError, TypeError, RuntimeError) as error:
        raise TinyEngramError(f"{type(config).__name__} does not fit the base: {error}") from error


def eval_losses(
    model: nn.Module, examples: Sequence[EncodedExample], *, batch_size: int, pad_token_id: int
) -> tuple[float, float]:
    """Mean loss per token on held-out examples, over the whole text and over the answer alone, from one reading.

    Args:
        model: In any mode; it is read in evaluation mode and put back.
        examples: Held-out examples; read in order of length, so that little is padding.
        batch_size: Examples at a time.
        pad_token_id: See :func:`collate`.

    Returns:
        ``(whole, answer)`` in nats per token.
    """
    import torch

    device = next(model.parameters()).device
    training = model.training
    model.eval()
    sums, counts = torch.zeros(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    ordered = sorted(examples, key=lambda example: (len(example.input_ids), example.id))
    with torch.no_grad():
        for start in range(0, len(ordered), batch_size):
            part = ordered[start : start + batch_size]
            whole = collate(part, loss_on="whole", pad_token_id=pad_token_id)
            answer = collate(part, loss_on="answer", pad_token_id=pad_token_id)["labels"]
            labels = whole.pop("labels").to(device)
            inputs = {name: tensor.to(device) for name, tensor in whole.items()}
            losses = token_losses(model(**inputs, use_cache=False).logits, labels).cpu().double()
            in_answer = answer[:, predicting_positions(labels.cpu()) + 1] != IGNORED
            sums += torch.stack([losses.sum(), losses[in_answer].sum()])
            counts += torch.tensor([(labels != IGNORED).sum().item(), in_answer.sum().item()])
    model.train(training)
    whole_loss, answer_loss = (sums / counts.clamp(min=1)).tolist()
    return whole_loss, answer_loss


def train_arm(
    *,
    arm: str,
    base: Base,
    config: PeftConfig,
    train: Sequence[EncodedExample],
    eval: Sequence[EncodedExample],
    settings: TrainingSettings,
    seed: int,
    folder: Path,
    unanswerable: Sequence[Sequence[int]] = (),
    on_step: Callable[[StepEvent], None] | None = None,
) -> Trajectory:
    """Train one arm with one seed, or finish what an earlier call began.

    Args:
        arm: Name in the study.
        base: A base of its own: it is changed in place.
        config: From :func:`peft_config`.
        train: Training examples; their order depends on the seed alone, so it is the same for every arm.
        eval: Held-out examples, never trained on.
        settings: How to train.
        seed: Fixes initialisation, order and dropout.
        folder: Receives ``trajectory.json`` and ``checkpoint-<step>/`` with the adapter of every stop.
        unanswerable: Prompts (token ids) on which ``settings.hold_weight`` holds the output to the base's; see
            :func:`tinyengram.holding.unanswerable_prompts`.
        on_step: Called after every optimizer step and at every stop.

    Returns:
        The finished trajectory.

    Raises:
        KeyboardInterrupt: Passed on; a later call continues from the last whole checkpoint.
    """
    from peft import get_peft_model
    from transformers import set_seed

    from tinyengram.holding import answered_by_base

    done = read_trajectory(folder)
    if done is not None and done.finished:
        return done
    held: list[EncodedExample] = []
    if settings.hold_weight:
        if not unanswerable:
            raise TinyEngramError(f"hold_weight={settings.hold_weight} needs prompts to hold, and there are none.")
        held = answered_by_base(
            base.model, unanswerable, pad_token_id=base.tokenizer.pad_token_id or 0, new_tokens=settings.hold_tokens
        )
    set_seed(seed)  # For the adapter's own first values; Trainer seeds again for the order of the data.
    model: Any = get_peft_model(base.model, config)
    trajectory = Trajectory(
        arm=arm,
        seed=seed,
        method=str(getattr(config.peft_type, "value", config.peft_type)).lower(),
        learning_rate=settings.learning_rate,
        trainable_parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        loss_on=settings.loss_on,
        points=done.points if done else [],
        finished=False,
    )
    last = next((point.checkpoint for point in reversed(trajectory.points) if point.checkpoint), None)
    trainer = _make_trainer(model, base, train, eval, held, settings, seed, folder, trajectory, on_step)
    writes = trainer.is_world_process_zero()  # Of several processes the first.
    if writes:
        _drop_unfinished_checkpoints(folder, trajectory)
    trainer.train(resume_from_checkpoint=str(folder / last) if last else None)
    trajectory.finished = True
    if writes:
        _write_trajectory(folder, trajectory)
        for point in trajectory.points:
            if point.checkpoint:
                _keep_adapter_only(folder / point.checkpoint)
    return trajectory


def read_trajectory(folder: Path) -> Trajectory | None:
    """The trajectory written in ``folder`` so far, or None."""
    file = folder / _TRAJECTORY_FILE
    return Trajectory.model_validate_json(file.read_text()) if file.exists() else None


def _write_trajectory(folder: Path, trajectory: Trajectory) -> None:
    write_atomically(folder / _TRAJECTORY_FILE, trajectory.model_dump_json(indent=2))


def _drop_unfinished_checkpoints(folder: Path, trajectory: Trajectory) -> None:
    """Remove checkpoints that the trajectory does not name: their writing was cut off."""
    whole = {point.checkpoint for point in trajectory.points}
    for path in folder.glob("checkpoint-*"):
        if path.name not in whole:
            shutil.rmtree(path)


def _keep_adapter_only(checkpoint: Path) -> None:
    """Drop what only a continuation of the training needs (optimizer, random state) from a checkpoint."""
    for path in checkpoint.iterdir():
        if path.name.startswith("adapter_"):
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)  # Of several processes another may have been first.


def _make_trainer(
    model: Any,
    base: Base,
    train: Sequence[EncodedExample],
    held_out: Sequence[EncodedExample],
    held: Sequence[EncodedExample],
    settings: TrainingSettings,
    seed: int,
    folder: Path,
    trajectory: Trajectory,
    on_step: Callable[[StepEvent], None] | None,
) -> Any:
    """A ``transformers.Trainer`` that evaluates both losses and keeps the trajectory."""
    from functools import partial

    import torch
    from transformers import Trainer, TrainerCallback, TrainingArguments

    from tinyengram.holding import divergence_from_base
    from tinyengram.memory.optim import row_sparse_adamw

    pad_token_id = base.tokenizer.pad_token_id or 0
    takes_positions = takes_argument(model, "logits_to_keep")
    per_step = settings.hold_batch_size

    def batch_of(examples: Sequence[EncodedExample]) -> dict[str, torch.Tensor]:
        batch = collate(examples, loss_on=settings.loss_on, pad_token_id=pad_token_id)
        if takes_positions:
            batch["logits_to_keep"] = predicting_positions(batch["labels"])
        return batch

    def loss_of(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
        losses = token_losses(outputs.logits, labels)
        return losses.sum() / (num_items_in_batch if num_items_in_batch is not None else (labels != IGNORED).sum())

    class ArmTrainer(Trainer):
        model: nn.Module

        def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
            if self.optimizer is None:
                self.optimizer = row_sparse_adamw(
                    self.model,
                    settings.learning_rate,
                    weight_decay=settings.weight_decay,
                    betas=(0.9, settings.adam_beta2),
                    table_learning_rate_factor=settings.table_learning_rate_factor,
                )
            return self.optimizer

        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            loss: Any = super().compute_loss(model, inputs, *args, **kwargs)
            if held and model.training:
                first = (self.state.global_step * self.args.world_size + self.args.process_index) * per_step
                part = [held[(first + index) % len(held)] for index in range(per_step)]
                divergence = divergence_from_base(model, part, pad_token_id=pad_token_id)
                loss = loss + settings.hold_weight / settings.gradient_accumulation * divergence
            return loss

        def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
            whole, answer = eval_losses(
                self.model, held_out, batch_size=self.args.per_device_eval_batch_size, pad_token_id=pad_token_id
            )
            trained = whole if settings.loss_on == "whole" else answer
            metrics = {"eval_loss": trained, "eval_loss_whole": whole, "eval_loss_answer": answer}
            self.log(dict(metrics))
            self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
            return metrics

    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=settings.batch_size,
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
        eval_on_start=not trajectory.points,
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
        dataloader_pin_memory=torch.cuda.is_available(),
    )
    # One process drives one device; several devices are for `torchrun` or `accelerate launch`.
    arguments._n_gpu = min(1, arguments.n_gpu)
    trainer = ArmTrainer(
        model=model,
        args=arguments,
        train_dataset=list(train),
        eval_dataset=list(held_out),
        data_collator=batch_of,
        compute_loss_func=partial(loss_of),
        callbacks=[_make_keeper(TrainerCallback, folder, trajectory, settings, on_step)()],
    )
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    return trainer


def _make_keeper(
    callback_class: type,
    folder: Path,
    trajectory: Trajectory,
    settings: TrainingSettings,
    on_step: Callable[[StepEvent], None] | None,
) -> type:
    """A Trainer callback that writes the trajectory once a checkpoint is whole, and tells how the arm is doing."""

    class TrajectoryKeeper(callback_class):
        def __init__(self) -> None:
            self.pending: TrajectoryPoint | None = None
            self.before = trajectory.points[-1].seconds if trajectory.points else 0.0
            self.begun = time.monotonic()
            self.losses: list[float] = []  # Of the steps since the last stop.

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.begun = time.monotonic()
            self.first_step, self.first_tokens = state.global_step, state.num_input_tokens_seen

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step >= state.max_steps:
                control.should_evaluate = control.should_save = True

        def on_log(self, args: Any, state: Any, control: Any, logs: dict | None = None, **_: Any) -> None:
            if logs and "loss" in logs:
                self.losses.append(logs["loss"])
                self._tell(state, None)

        def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict | None = None, **_: Any) -> None:
            assert metrics is not None
            self.pending = TrajectoryPoint(
                step=state.global_step,
                tokens=int(state.num_input_tokens_seen),
                seconds=self.before + time.monotonic() - self.begun,
                train_loss=fmean(self.losses) if self.losses else None,
                eval_loss_whole=metrics["eval_loss_whole"],
                eval_loss_answer=metrics["eval_loss_answer"],
                checkpoint=f"checkpoint-{state.global_step}" if state.global_step else None,
            )
            if not state.global_step:
                self._commit(args)
            self._tell(state, metrics["eval_loss"])
            self.losses.clear()

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            previous = trajectory.points[-1].checkpoint if trajectory.points else None
            self._commit(args)
            if previous and not args.process_index:
                _keep_adapter_only(folder / previous)

        def _commit(self, args: Any) -> None:
            if self.pending is not None and self.pending.step not in {point.step for point in trajectory.points}:
                trajectory.points.append(self.pending)
                if not args.process_index:
                    _write_trajectory(folder, trajectory)
            self.pending = None

        def _tell(self, state: Any, eval_loss: float | None) -> None:
            if on_step is None:
                return
            seconds = max(time.monotonic() - self.begun, 1e-9)
            steps = state.global_step - self.first_step
            on_step(
                StepEvent(
                    arm=trajectory.arm,
                    seed=trajectory.seed,
                    step=state.global_step,
                    total_steps=state.max_steps,
                    loss=self.losses[-1] if self.losses else None,
                    tokens_per_second=(state.num_input_tokens_seen - self.first_tokens) / seconds,
                    seconds_left=(state.max_steps - state.global_step) * seconds / steps if steps else float("nan"),
                    eval_loss=eval_loss,
                )
            )

    return TrajectoryKeeper
