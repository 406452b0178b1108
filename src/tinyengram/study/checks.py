"""What is checked before any work: the folder, the arms' options and sizes, the space that checkpoints need."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from tinyengram.files import write_atomically
from tinyengram.processes import share_of_each
from tinyengram.study.material import Material
from tinyengram.study.plan import Study, StudyError
from tinyengram.training.job import first_difference

# What a run that was cut off before its plan was written leaves.
# What lies in a folder before there is a plan: a call that was cut off, or another study's work that is used again.
_FIRST_FILES = ("seconds.json", "inputs.json", ".lock", "jobs", "scores", "asked")
# Adapter weights of every checkpoint in float32, and twice that once for the optimizer.
_BYTES_PER_PARAMETER = 4
_OPTIMIZER_COPIES = 2


def check_folder(study: BaseModel, out: Path) -> None:
    """Refuse a folder that holds something else, or that cannot be written."""
    if out.exists() and not out.is_dir():
        raise StudyError(f"--out {out} names a file. Name a folder; nothing was changed.")
    plan = out / "plan.yaml"
    if plan.exists():
        held = yaml.safe_load(plan.read_text())
        changed = first_difference(held, study.model_dump(mode="json"))
        if changed:
            raise StudyError(
                f"{out} holds the results of another study: {changed}. Choose another --out, or delete the folder; "
                "nothing in it was changed."
            )
    elif out.exists() and any(path.name not in _FIRST_FILES for path in out.iterdir()):
        raise StudyError(f"{out} is not empty and holds no study. Choose another --out; nothing in it was changed.")
    try:
        write_atomically(out / ".writable", "")
        (out / ".writable").unlink()
    except OSError as error:
        raise StudyError(f"The run folder {out} cannot be written ({error.strerror}). Choose another --out.") from error


def check_arms(study: Study, material: Material, out: Path) -> None:
    """Put every arm's adapter on a hollow copy of the base, and see whether the disk holds the checkpoints."""
    from tinyengram.training import check_config, config_for
    from tinyengram.training.options import total_steps

    needed = 0
    for name, arm in study.arms.items():
        try:
            settings = study.settings(name)
            share_of_each(settings.batch_size, "batch_size")
            if settings.hold_weight:
                share_of_each(settings.hold_batch_size, "hold_batch_size")
            examples = material.examples
            config = config_for(arm.method, arm.options, base=material.base, examples=examples, settings=settings)
            parameters = check_config(config, material.base)
            if arm.wise_ft is not None:
                _check_scaling(arm.wise_ft.of, config.to_dict())
        except Exception as error:
            if type(error).__module__.startswith("tinyengram"):
                raise StudyError(f"Arm {name!r}: {error}") from error
            raise
        stops = math.ceil(total_steps(settings, len(material.examples.train)) / settings.eval_every)
        runs = len(study.seeds) + max(0, len(arm.rates) - 1)
        copies = (stops + _OPTIMIZER_COPIES) * runs
        if arm.wise_ft is not None:  # Nothing is trained.
            copies = len(arm.wise_ft.scales) * len(study.seeds)
        needed += parameters * _BYTES_PER_PARAMETER * copies
    free = shutil.disk_usage(out).free
    if needed > free:
        raise StudyError(
            f"The checkpoints need about {needed / 1e9:.1f} GB and {out} has {free / 1e9:.1f} GB free. Free some "
            "space, raise eval_every, or choose another --out."
        )


def _check_scaling(of: str, options: dict[str, Any]) -> None:
    from tinyengram.training.blending import CannotBlend, scaled_tensors

    try:
        scaled_tensors(options)
    except CannotBlend as refusal:
        raise StudyError(f"wise_ft cannot scale {of!r}: {refusal}. Leave it out, or scale another arm.") from refusal
