"""One arm of a study: a base, a PEFT method and examples become checkpoints and a trajectory.

``transformers.Trainer`` does the training (:mod:`tinyengram.training.trainer`). A trajectory file names exactly the
checkpoints that are whole, so that a run that was killed continues from the last of them and ends with the same numbers
to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyengram.errors import TinyEngramError
from tinyengram.progress import StepEvent
from tinyengram.training.settings import TrainingSettings
from tinyengram.training.trajectory import (
    Trajectory,
    drop_unfinished_checkpoints,
    keep_adapter_only,
    read_trajectory,
    write_trajectory,
)

if TYPE_CHECKING:
    from peft import PeftConfig

    from tinyengram.sources import Base
    from tinyengram.tasks.rendering import EncodedExample


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
            :func:`tinyengram.training.holding.unanswerable_prompts`.
        on_step: Called after every optimizer step and at every stop.

    Returns:
        The finished trajectory.

    Raises:
        KeyboardInterrupt: Passed on; a later call continues from the last whole checkpoint.
    """
    from peft import get_peft_model
    from transformers import set_seed

    from tinyengram.training.holding import answered_by_base
    from tinyengram.training.trainer import ArmTrainer, Lessons, TrajectoryKeeper, training_arguments

    done = read_trajectory(folder)
    if done is not None and done.finished:
        return done
    held: list[EncodedExample] = []
    pad_token_id = base.tokenizer.pad_token_id or 0
    if settings.hold_weight:
        if not unanswerable:
            raise TinyEngramError(f"hold_weight={settings.hold_weight} needs prompts to hold, and there are none.")
        held = answered_by_base(base.model, unanswerable, pad_token_id=pad_token_id, new_tokens=settings.hold_tokens)
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
    trainer = ArmTrainer(
        model,
        Lessons(train, eval, held),
        settings,
        pad_token_id,
        TrajectoryKeeper(folder, trajectory, on_step),
        args=training_arguments(settings, seed, folder, continues=bool(trajectory.points)),
    )
    writes = trainer.is_world_process_zero()  # Of several processes the first.
    if writes:
        drop_unfinished_checkpoints(folder, trajectory)
    trainer.train(resume_from_checkpoint=str(folder / last) if last else None)
    trajectory.finished = True
    if writes:
        write_trajectory(folder, trajectory)
        for point in trajectory.points:
            if point.checkpoint:
                keep_adapter_only(folder / point.checkpoint)
    return trajectory
