"""One arm of a study: a base, a PEFT method and examples become checkpoints and a trajectory.

``transformers.Trainer`` does the training (:mod:`tinyengram.training.trainer`). A trajectory file names exactly the
checkpoints that are whole, so that a run that was killed continues from the last of them and ends with the same numbers
to the bit.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyengram.errors import TinyEngramError
from tinyengram.processes import engine, forget_engine, refuse_unfit
from tinyengram.progress import StepEvent
from tinyengram.training.adapters import describe_base
from tinyengram.training.losses import eval_losses
from tinyengram.training.options import total_steps
from tinyengram.training.settings import TrainingSettings
from tinyengram.training.trajectory import (
    Trajectory,
    TrajectoryPoint,
    drop_unfinished_checkpoints,
    drop_what_came_of_it,
    keep_adapter_only,
    read_trajectory,
    write_trajectory,
)

if TYPE_CHECKING:
    from peft import PeftConfig

    from tinyengram.sources import Base
    from tinyengram.tasks.rendering import EncodedExample
    from tinyengram.training.holding import HeldExample
    from tinyengram.training.unanswerable import HeldPrompt


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
    unanswerable: Sequence[HeldPrompt] = (),
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
        unanswerable: Prompts on which ``settings.hold_weight`` holds the output to the base's; see
            :func:`tinyengram.training.unanswerable.unanswerable_prompts`.
        on_step: Called after every optimizer step and at every stop.

    Returns:
        The finished trajectory. A run whose loss is no longer finite is stopped there (``broke_down_at``).

    Raises:
        KeyboardInterrupt: Passed on; a later call continues from the last whole checkpoint.
    """
    from peft import get_peft_model
    from transformers import set_seed

    from tinyengram.tasks.calls.judging import calls_or_is_empty
    from tinyengram.training.holding import answered_by_base
    from tinyengram.training.opened import open_by_its_rule
    from tinyengram.training.trainer import ArmTrainer, Lessons, TrajectoryKeeper, training_arguments
    from tinyengram.training.upkeep import look_at_data

    done = read_trajectory(folder)
    if done is not None and done.finished:
        return done
    held: list[HeldExample] = []
    pad_token_id = base.tokenizer.pad_token_id or 0
    if settings.hold_weight:
        if not unanswerable:
            raise TinyEngramError(f"hold_weight={settings.hold_weight} needs prompts to hold, and there are none.")
        held = answered_by_base(
            base.model,
            unanswerable,
            pad_token_id=pad_token_id,
            new_tokens=settings.hold_tokens,
            is_call=lambda answer: calls_or_is_empty(base.tokenizer.decode(answer)),
        )
    description = describe_base(base.model)
    points = done.points if done else [_start(base, eval, settings, pad_token_id)]
    set_seed(seed)  # For the adapter's own first values; Trainer seeds again for the order of the data.
    model: Any = get_peft_model(base.model, config)
    open_by_its_rule(model, getattr(config, "opened_by", None))
    look_at_data(model, train, loss_on=settings.loss_on, pad_token_id=pad_token_id)
    trajectory = Trajectory(
        arm=arm,
        seed=seed,
        method=str(getattr(config.peft_type, "value", config.peft_type)).lower(),
        learning_rate=settings.learning_rate,
        trainable_parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        loss_on=settings.loss_on,
        held=dict(Counter(prompt.kind or "own" for prompt in unanswerable)),
        points=points,
        finished=False,
    )
    last = next((point.checkpoint for point in reversed(trajectory.points) if point.checkpoint), None)
    trainer = ArmTrainer(
        model,
        Lessons(train, eval, held),
        settings,
        pad_token_id,
        TrajectoryKeeper(folder, trajectory, on_step, description),
        args=training_arguments(settings, seed, folder),
    )
    refuse_unfit(trainer.args)
    if done is not None and done.engine != engine(trainer.args):
        raise TinyEngramError(
            f"{folder} was begun with its optimizer's state kept as {done.engine!r}, which cannot be continued as "
            f"{engine(trainer.args)!r}. Continue as it was begun, or delete the folder to begin anew."
        )
    trajectory.engine = engine(trainer.args)
    writes = trainer.is_world_process_zero()  # Of several processes the first.
    if writes:
        drop_unfinished_checkpoints(folder, trajectory)
    if done is None:
        if writes:
            drop_what_came_of_it(folder)
            write_trajectory(folder, trajectory)
        if on_step is not None:
            on_step(_start_event(trajectory, total_steps(settings, len(train))))
    trainer.train(resume_from_checkpoint=str(folder / last) if last else None)
    forget_engine()
    trajectory.finished = True
    if writes:
        write_trajectory(folder, trajectory)
        for point in trajectory.points:
            if point.checkpoint:
                keep_adapter_only(folder / point.checkpoint)
    return trajectory


def _start(
    base: Base, eval: Sequence[EncodedExample], settings: TrainingSettings, pad_token_id: int
) -> TrajectoryPoint:
    """What the base itself loses, before there is an adapter: not every method begins by changing nothing."""
    begun = time.monotonic()
    whole, answer = eval_losses(
        base.model, eval, batch_size=settings.eval_batch_size or settings.batch_size, pad_token_id=pad_token_id
    )
    return TrajectoryPoint(
        step=0,
        tokens=0,
        seconds=time.monotonic() - begun,
        train_loss=None,
        eval_loss_whole=whole,
        eval_loss_answer=answer,
        checkpoint=None,
    )


def _start_event(trajectory: Trajectory, steps: int) -> StepEvent:
    start = trajectory.points[0]
    return StepEvent(
        arm=trajectory.arm,
        seed=trajectory.seed,
        step=0,
        total_steps=steps,
        loss=None,
        tokens_per_second=0.0,
        seconds_left=math.nan,
        eval_loss=start.eval_loss_whole if trajectory.loss_on == "whole" else start.eval_loss_answer,
    )
