"""What a training run measured on its way, and the file that names exactly the checkpoints that are whole."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from tinyengram.errors import TinyEngramError
from tinyengram.files import read_model, write_atomically

_FILE = "trajectory.json"
_HELD_IN_WORDS = {
    "no_tools": "without tools",
    "other_tools": "with another request's tools",
    "own_tools_without": "with their own tools but for the one to call",
    "after_result": "behind a tool's result",
    "own": "given with the training",
}


class _Record(BaseModel):
    model_config = ConfigDict(ser_json_inf_nan="constants")  # JSON's null would not read back as a number.


class Between(BaseModel):
    """Where an adapter that was not trained stands on the line between two stops.

    Attributes:
        before, after: Steps of the two; 0 is the base.
        share: Of the way, 0 to 1.
    """

    before: int
    after: int
    share: float

    def __str__(self) -> str:
        """As it continues a sentence."""
        start = f"step {self.before}" if self.before else "the base"
        return f"{self.share:.3g} of the way from {start} to step {self.after}"


class TrajectoryPoint(_Record):
    """What was measured at one stop of a training run; losses are means over tokens, in nats.

    ``train_loss`` is the mean over the steps since the stop before. ``between``: the adapter was not trained but mixed,
    and ``step`` is the nearest to it (:mod:`tinyengram.training.blending`).
    """

    step: int
    tokens: int
    seconds: float
    train_loss: float | None
    eval_loss_whole: float
    eval_loss_answer: float
    checkpoint: str | None
    between: Between | None = None


class Trajectory(_Record):
    """The stops of one arm with one seed, in order of steps; step 0 is the base itself.

    ``job`` is the digest of the job, which names its folder; empty in runs before 0.2.
    ``held`` counts the prompts on which it was held to the base, by kind.
    ``broke_down_at`` is the step whose loss was not finite, at which the run was stopped; None: it did not break down.
    ``engine`` says what its checkpoints can be continued by; see :func:`tinyengram.processes.engine`.
    """

    arm: str
    job: str = ""
    seed: int
    method: str
    learning_rate: float
    trainable_parameters: int
    loss_on: Literal["whole", "answer"]
    points: list[TrajectoryPoint]
    finished: bool
    held: dict[str, int] = {}
    broke_down_at: int | None = None
    engine: str = "whole"


def unbroken(trajectory: Trajectory) -> Trajectory:
    """The trajectory, which did not break down.

    Raises:
        TinyEngramError: It did; names the step and the rate.
    """
    if trajectory.broke_down_at is not None:
        raise TinyEngramError(f"{breakdown(trajectory)} Give a lower learning_rate, or several to choose from (rates).")
    return trajectory


def breakdown(trajectory: Trajectory) -> str:
    """A sentence on where a run broke down."""
    return (
        f"Arm {trajectory.arm!r} ({trajectory.method}), seed {trajectory.seed}, broke down: its loss was not finite at "
        f"step {trajectory.broke_down_at} with learning rate {trajectory.learning_rate:g}, and it was stopped there."
    )


def held_in_words(trajectory: Trajectory) -> str:
    """On how many prompts of which kind a run was held to its base; empty where it was not."""
    kinds = [f"{count} {_HELD_IN_WORDS.get(kind, kind)}" for kind, count in trajectory.held.items()]
    return f"held to the base on {sum(trajectory.held.values())} prompts: {', '.join(kinds)}" if kinds else ""


def read_trajectory(folder: Path) -> Trajectory | None:
    """The trajectory written in ``folder`` so far, or None."""
    file = folder / _FILE
    remedy = f"Delete {folder}, which is trained anew then."
    return read_model(Trajectory, file, remedy) if file.exists() else None


def write_trajectory(folder: Path, trajectory: Trajectory) -> None:
    write_atomically(folder / _FILE, trajectory.model_dump_json(indent=2))


def drop_unfinished_checkpoints(folder: Path, trajectory: Trajectory) -> None:
    """Remove checkpoints that the trajectory does not name: their writing was cut off."""
    whole = {point.checkpoint for point in trajectory.points}
    for path in folder.glob("checkpoint-*"):
        if path.is_dir() and path.name not in whole:
            shutil.rmtree(path)


def drop_what_came_of_it(folder: Path) -> None:
    """Remove what was mixed of, and noted of, the checkpoints of a run that is done anew in its folder."""
    for path in [*folder.glob("between-*"), *folder.glob("*.key")]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def keep_adapter_only(checkpoint: Path) -> None:
    """Drop what only a continuation of the training needs (optimizer, random state) from a checkpoint."""
    for path in checkpoint.iterdir():
        if path.name.startswith("adapter_"):
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)  # Of several processes another may have been first.
