"""Training of one PEFT method on one base with ``transformers.Trainer``, measured on the way."""

from __future__ import annotations

from tinyengram.training.adapters import load_adapter
from tinyengram.training.arm import train_arm
from tinyengram.training.losses import eval_losses
from tinyengram.training.methods import check_config, config_for, peft_config
from tinyengram.training.settings import TrainingSettings
from tinyengram.training.trajectory import Trajectory, TrajectoryPoint, breakdown, read_trajectory, unbroken

__all__ = [
    "TrainingSettings",
    "Trajectory",
    "TrajectoryPoint",
    "breakdown",
    "check_config",
    "config_for",
    "eval_losses",
    "load_adapter",
    "peft_config",
    "read_trajectory",
    "train_arm",
    "unbroken",
]
