"""Before hours are spent on an arm: two steps, one checkpoint and a few words, with the real base on a real example.

What can go wrong with a method, a base and the installed libraries goes wrong here, within seconds, and is refused by
name: a step that fails, an adapter that is another one once it is loaded, logits that are read at the wrong places, a
cache that loses what the method must remember, a base that is gone when the adapter is switched off.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyengram.errors import TinyEngramError
from tinyengram.files import keep_trace
from tinyengram.host import versions
from tinyengram.processes import processes
from tinyengram.study.material import Material
from tinyengram.study.plan import Study, StudyError
from tinyengram.training.examples import prompts_to_hold
from tinyengram.training.job import load_fresh

if TYPE_CHECKING:
    from tinyengram.scoring.soundness import Gaps
    from tinyengram.tasks.rendering import EncodedExample
    from tinyengram.training import Trajectory

# Rates at which a step moves the output by much more than arithmetic does, and does not break every method.
_LEAST_RATE, _HIGHEST_RATE = 1e-2, 1e-1
# In the first step a factor that starts at zero keeps the other one's gradient at zero.
_STEPS = 2
# Of losses in nats: the same weights read the same batch.
_TOLERANCE = 1e-5


def rehearse(study: Study, material: Material, arms: Sequence[str], *, looks: bool) -> None:
    """Try each arm: two steps, its checkpoint, and text read and generated in every way.

    Args:
        study: What will be run.
        material: Its examples and prompts.
        arms: Which arms to try.
        looks: Whether this process looks at the checkpoints; of several processes the first does.

    Raises:
        StudyError: An arm cannot be used; says why, with the versions that are installed. Nothing was trained.
    """
    example = min(material.examples.train, key=lambda one: len(one.input_ids))
    with _refused(study, "The base"):
        of_base = _gaps(material.base.model, material, example) if looks else None
    for arm in arms:
        with (
            _refused(study, f"Arm {arm!r} ({study.arms[arm].method})"),
            tempfile.TemporaryDirectory(prefix="tinyengram-") as folder,
        ):
            trajectory = _take_steps(study, material, arm, example, Path(folder))
            if of_base is not None:
                _look_at(study, material, trajectory, Path(folder), example, of_base)


@contextmanager
def _refused(study: Study, what: str) -> Iterator[None]:
    """Whatever is wrong with ``what`` becomes a sentence that names it."""
    from tinyengram.scoring.soundness import Unsound

    try:
        yield
    except TinyEngramError as error:
        raise StudyError(f"{what}: {error}") from error
    except (MemoryError, OSError):
        raise
    except Exception as error:
        trace = "" if isinstance(error, Unsound) else f" The full trace is in {keep_trace(error)}."
        reason = str(error).strip() or type(error).__name__
        raise StudyError(
            f"{what} cannot be used with {study.base.name} and {versions()}: {reason.splitlines()[0]}{trace} Nothing "
            "was trained. Leave it out, change its options, or install versions that this package was run with "
            "(README: works with)."
        ) from error


def _take_steps(study: Study, material: Material, arm: str, example: EncodedExample, folder: Path) -> Trajectory:
    """Train an arm on one example as it will be trained, but for two steps at a rate that shows."""
    from tinyengram.training import config_for, train_arm

    settings = study.settings(arm)
    base = load_fresh(study.base)
    options, method = study.arms[arm].options, study.arms[arm].method
    config = config_for(method, options, base=base, examples=material.examples, settings=settings)
    changes = {"max_steps": _STEPS, "epochs": None, "gradient_accumulation": 1, "eval_every": _STEPS}
    rate = min(max(settings.learning_rate, _LEAST_RATE), _HIGHEST_RATE)
    rates = {"learning_rate": rate, "warmup_ratio": 0.0, "lr_scheduler": "constant"}
    each = {"batch_size": processes(), "hold_prompts": 2, "hold_batch_size": processes()}
    settings = settings.model_copy(update={**changes, **rates, **each})
    return train_arm(
        arm=arm,
        base=base,
        config=config,
        train=[example] * processes(),
        eval=[example],
        settings=settings,
        seed=study.seeds[0],
        folder=folder,
        unanswerable=prompts_to_hold(settings, study.data, material.examples),
    )


def _look_at(
    study: Study, material: Material, trajectory: Trajectory, folder: Path, example: EncodedExample, of_base: Gaps
) -> None:
    """Load a checkpoint on a base of its own and compare what it says with what was trained, and with itself."""
    from tinyengram.scoring.soundness import Unsound, check_gaps, check_switched_off, whole_logits
    from tinyengram.training import eval_losses, load_adapter

    if trajectory.broke_down_at is not None:
        raise Unsound(f"its loss is not finite after {trajectory.broke_down_at} steps on one example.")
    trained = trajectory.points[-1].eval_loss_whole
    base = load_fresh(study.base)
    model = load_adapter(base.model, folder / str(trajectory.points[-1].checkpoint))
    loaded, _ = eval_losses(model, [example], batch_size=1, pad_token_id=base.tokenizer.pad_token_id or 0)
    if not abs(loaded - trained) <= _TOLERANCE * max(1.0, trained):
        raise Unsound(f"its loss was {trained:.4f} when it was saved and is {loaded:.4f} when it is loaded again.")
    check_gaps(_gaps(model, material, example), of_base)
    if study.drift is not None or study.settings(trajectory.arm).hold_weight:
        check_switched_off(model, whole_logits(material.base.model, example.input_ids), example.input_ids)


def _gaps(model: Any, material: Material, example: EncodedExample) -> Gaps:
    from tinyengram.scoring.soundness import measure_gaps

    prompt = example.input_ids[: max(2, example.answer_mask.index(True))]
    return measure_gaps(model, material.base.tokenizer, prompt)
