"""A study, resolved: the jobs that it consists of, run in the order that choosing learning rates asks for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

from tinyengram.files import write_atomically
from tinyengram.progress import Clock, Event, PhaseEvent
from tinyengram.study.matching import best_of
from tinyengram.study.material import Material
from tinyengram.study.plan import Study, StudyError
from tinyengram.study.rehearsal import rehearse
from tinyengram.study.scaling import scaled_run
from tinyengram.training.job import TrainingJob, checksum_of_base, first_difference
from tinyengram.training.run import result_of, run_job
from tinyengram.training.trajectory import Trajectory, breakdown, held_in_words, unbroken

_INPUTS_FILE = "inputs.json"


class Jobs:
    """The jobs of a study by arm, seed and learning rate.

    Args:
        study: The plan.
        material: What its base and data came to.
    """

    def __init__(self, study: Study, material: Material) -> None:
        self._study = study
        self._base_checksum = checksum_of_base(material.base)
        self._examples_checksum = material.examples.checksum

    def job(self, arm: str, seed: int, rate: float | None = None) -> TrainingJob:
        """One run; ``rate`` is one of the arm's ``rates``, or None for the learning rate of an arm without them."""
        study = self._study
        return TrainingJob(
            base=study.base,
            base_checksum=self._base_checksum,
            data=study.data,
            examples_checksum=self._examples_checksum,
            method=study.arms[arm].method,
            options=study.arms[arm].options,
            settings=study.settings(arm, rate),
            seed=seed,
        )


def check_inputs(material: Material, out: Path) -> None:
    """Write down the checksums of base, data and questions, or compare them with those of the run's beginning.

    Raises:
        StudyError: A file was edited since: what is trained from here on would not compare with what was before.
    """
    asked = [
        [one.question, one.mc1_choices, one.mc2_choices, one.mc2_labels]
        for one in material.questions.truthfulqa.questions
    ]
    sets = {
        name: [[one.question, one.choices, one.gold] for one in one_set.questions]
        for name, one_set in material.questions.choice_sets.items()
    }
    texts = [] if material.questions.texts is None else material.questions.texts.texts
    inputs = {
        "base": checksum_of_base(material.base),
        "data": material.examples.checksum,
        "questions": hashlib.sha256(json.dumps([asked, sets, texts]).encode()).hexdigest(),
    }
    file = out / _INPUTS_FILE
    if file.exists():
        changed = first_difference(json.loads(file.read_text()), inputs)
        if changed:
            raise StudyError(
                f"{out} was begun with other inputs: the checksum of {changed}. Its plan is the same, so a file was "
                "edited or a library writes chats in another way now. Put it back as it was, or choose another --out; "
                "nothing in it was changed."
            )
    else:
        write_atomically(file, json.dumps(inputs, indent=2))


def train_study(
    study: Study, material: Material, out: Path, clock: Clock | None, on_event: Callable[[Event], None]
) -> tuple[list[Trajectory], list[Trajectory]]:
    """Train every arm with every seed, or take what is there already; a clock notes how long each took.

    Args:
        study: The plan.
        material: What its base and data came to.
        out: Run folder.
        clock: None in a process that helps another which writes.
        on_event: Told how it is going.

    Returns:
        The arms' runs, and the first seed's with learning rates that were not taken.
    """
    jobs = Jobs(study, material)
    # Kept here and not only read from the folder: of several processes only the first may see it.
    taken: dict[tuple[str, int], Trajectory] = {}

    def run(name: str, seed: int, rate: float | None) -> Trajectory:
        if (name, seed) in taken:
            return taken[name, seed]
        job = jobs.job(name, seed, rate)
        done = result_of(job, out, name)
        if done is not None:
            return done
        on_event(PhaseEvent(f"Training {name}, seed {seed}" + (f", learning rate {rate:g}" if rate else "")))
        with nullcontext() if clock is None else clock.phase(f"train {name}"):
            found = run_job(
                job, out, label=name, examples=material.examples, writes=clock is not None, on_step=on_event
            )
        if found.held:
            on_event(PhaseEvent(f"{name} was {held_in_words(found)}"))
        return found

    chosen: dict[str, float | None] = dict.fromkeys(study.arms)
    trials = []
    for name, arm in study.arms.items():
        if arm.wise_ft is not None:
            continue
        tried = [run(name, study.seeds[0], rate) for rate in arm.rates]
        if tried:
            best = best_of(tried)
            chosen[name] = best.learning_rate
            taken[name, study.seeds[0]] = best
            trials += [trial for trial in tried if trial is not best]
            for trial in (one for one in tried if one.broke_down_at is not None):
                on_event(PhaseEvent(breakdown(trial)))

    def of(name: str, seed: int) -> Trajectory:
        wise = study.arms[name].wise_ft
        if wise is None:
            return unbroken(run(name, seed, chosen[name]))
        source = of(wise.of, seed)
        if clock is None:  # Nothing is trained, so there is nothing to help with.
            return source
        with clock.phase("scale"):
            return scaled_run(name, source, wise.scales, study, material, out)

    return [of(name, seed) for seed in study.seeds for name in study.arms], trials


def arms_to_train(study: Study, material: Material, out: Path) -> list[str]:
    """The arms of which something is not trained yet."""
    jobs = Jobs(study, material)

    def finished(arm: str, seed: int) -> bool:
        rates: Sequence[float | None] = study.arms[arm].rates or [None]
        return any(result_of(jobs.job(arm, seed, rate), out, arm) is not None for rate in rates)

    trained = [name for name, arm in study.arms.items() if arm.wise_ft is None]
    return [arm for arm in trained if not all(finished(arm, seed) for seed in study.seeds)]


def rehearse_what_is_missing(
    study: Study, material: Material, out: Path, clock: Clock | None, on_event: Callable[[Event], None]
) -> None:
    """Try every arm that has something to train; of several processes each takes its part, the first looks at it.

    Raises:
        StudyError: See :func:`tinyengram.study.rehearsal.rehearse`.
    """
    missing = arms_to_train(study, material, out)
    if missing:
        on_event(PhaseEvent(f"Trying each arm on one example: {', '.join(missing)}"))
        with nullcontext() if clock is None else clock.phase("try"):
            rehearse(study, material, missing, looks=clock is not None)
