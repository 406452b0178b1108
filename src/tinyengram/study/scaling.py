"""WiSE-FT: a trained arm's change of its base, scaled down afterwards (Wortsman et al. 2022, arXiv 2109.01903).

What a sceptic asks of any method that forgets little: whether the same is not had by learning as usual and then taking
a part of it back. Each scale is a stop of an arm that was not trained.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tinyengram.study.material import Material
from tinyengram.study.plan import Study
from tinyengram.training.trajectory import Between, Trajectory, TrajectoryPoint, read_trajectory, write_trajectory

LossesOf = Callable[[Any], tuple[float, float]]
"""What measures a model on held-out examples: ``(whole, answer)`` in nats per token."""


def scaled_run(
    name: str, source: Trajectory, scales: Sequence[float], study: Study, material: Material, out: Path
) -> Trajectory:
    """The trajectory whose stops are a trained arm's last checkpoint at each scale; measured once.

    Args:
        name: The arm's.
        source: The run that is scaled.
        scales: Rising, between 0 and 1.
        study: The plan.
        material: What its base and data came to.
        out: Run folder; the scaled adapters lie in ``jobs/scaled-<digest>``.

    Raises:
        CannotBlend: The method's change of the base cannot be scaled.
    """
    from tinyengram.training.blending import Blend

    start, end = source.points[0], source.points[-1]
    assert end.checkpoint is not None
    job = scaled_job(source, scales)
    folder = out / "jobs" / job
    done = read_trajectory(folder)
    if done is not None and is_scaled(source, scales, out):
        return done.model_copy(update={"arm": name})
    if done is not None:
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    line = Blend(study.base, None, out / "jobs" / source.job / end.checkpoint)
    losses, points = losses_of_stops(study, material), [start]
    for scale in scales:
        line.move(scale)
        point = mixed_point(start, end, scale, losses(line.model), f"checkpoint-{scale:g}")
        if not (folder / str(point.checkpoint)).exists():  # Kept by a call that was cut off.
            line.save(folder / str(point.checkpoint), {})
        points.append(point)
    run = source.model_copy(update={"arm": name, "job": job, "points": points})
    write_trajectory(folder, run)
    return run


def is_scaled(source: Trajectory, scales: Sequence[float], out: Path) -> bool:
    """Whether :func:`scaled_run` finds in a run folder what it is asked for, made of this very run."""
    done = read_trajectory(out / "jobs" / scaled_job(source, scales))
    return done is not None and done.points[0] == source.points[0]  # Not even two runs of one job took as long.


def scaled_job(source: Trajectory, scales: Sequence[float]) -> str:
    """The name of the folder in ``jobs`` that :func:`scaled_run` fills."""
    return f"scaled-{hashlib.sha256(f'{source.job} {list(scales)}'.encode()).hexdigest()[:16]}"


def mixed_point(
    above: TrajectoryPoint, below: TrajectoryPoint, share: float, losses: tuple[float, float], checkpoint: str
) -> TrajectoryPoint:
    """What is known of an adapter between two stops; ``losses`` are ``(whole, answer)``."""
    step = round(above.step + share * (below.step - above.step))
    return TrajectoryPoint(
        step=min(max(step, above.step + 1), max(below.step - 1, above.step + 1)),
        tokens=round(above.tokens + share * (below.tokens - above.tokens)),
        seconds=below.seconds,
        train_loss=None,
        eval_loss_whole=losses[0],
        eval_loss_answer=losses[1],
        checkpoint=checkpoint,
        between=Between(before=above.step, after=below.step, share=share),
    )


def losses_of_stops(study: Study, material: Material) -> LossesOf:
    """What measures a model on the held-out examples as a stop of the reference's training does."""
    from tinyengram.training import eval_losses

    settings = study.settings(study.reference)

    def losses(model: Any) -> tuple[float, float]:
        return eval_losses(
            model,
            material.examples.held_out,
            batch_size=settings.eval_batch_size or settings.batch_size,
            pad_token_id=material.base.tokenizer.pad_token_id or 0,
        )

    return losses
