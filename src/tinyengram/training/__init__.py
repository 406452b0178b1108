"""Training of one PEFT method on one base with ``transformers.Trainer``, measured on the way."""

from __future__ import annotations

from tinyengram.training.arm import train_arm
from tinyengram.training.losses import eval_losses
from tinyengram.training.methods import check_config, peft_config
from tinyengram.training.settings import TrainingSettings
from tinyengram.training.trajectory import Trajectory, TrajectoryPoint, read_trajectory

__all__ = [
    "TrainingSettings",
    "Trajectory",
    "TrajectoryPoint",
    "check_config",
    "eval_losses",
    "peft_config",
    "read_trajectory",
    "train_arm",
]
