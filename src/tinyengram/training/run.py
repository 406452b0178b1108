"""Run one job, or take its result where it is there already."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tinyengram.errors import TinyEngramError
from tinyengram.files import only_process_in, write_atomically
from tinyengram.progress import StepEvent
from tinyengram.training.arm import train_arm
from tinyengram.training.examples import Examples, load_examples, prompts_to_hold
from tinyengram.training.job import TrainingJob, load_fresh
from tinyengram.training.methods import config_for
from tinyengram.training.trajectory import Trajectory, read_trajectory

_FILE = "job.json"


def job_folder(out: Path, job: TrainingJob) -> Path:
    """Where a run folder keeps a job's result."""
    return out / "jobs" / job.digest


def result_of(job: TrainingJob, out: Path, label: str) -> Trajectory | None:
    """The finished trajectory of a job in a run folder, under the name that is given to it there; None: not yet."""
    done = read_trajectory(job_folder(out, job))
    return _named(done, job, label) if done is not None and done.finished else None


def run_job(
    job: TrainingJob,
    out: Path,
    *,
    label: str,
    examples: Examples | None = None,
    writes: bool = True,
    on_step: Callable[[StepEvent], None] | None = None,
) -> Trajectory:
    """Train what a job says, or finish what an earlier call began.

    Args:
        job: What to train.
        out: Run folder; the job's own folder in it is named by its digest.
        label: What the run is called in its trajectory and in news of it.
        examples: What the job's data come to, where they are at hand; else they are read.
        writes: Whether this process writes; of several that train together the first does.
        on_step: See :func:`tinyengram.training.train_arm`.

    Raises:
        TinyEngramError: The data are others than those that the job was made for, or another process works on it.
    """
    done = result_of(job, out, label)
    if done is not None:
        return done
    base = load_fresh(job.base)
    if examples is None:
        examples = load_examples(job.data, base.tokenizer)
    if examples.checksum != job.examples_checksum:
        raise TinyEngramError(
            f"The data {job.data.name!r} come to other examples than those that job {job.digest} was made for "
            f"(sha256 {examples.checksum[:12]}…, not {job.examples_checksum[:12]}…). Put the data back as they "
            "were, or resolve the plan anew."
        )
    folder = job_folder(out, job)
    if writes:
        write_atomically(folder / _FILE, job.model_dump_json(indent=2))
    with only_process_in(folder, writes):
        trajectory = train_arm(
            arm=label,
            base=base,
            config=config_for(job.method, job.options, base=base, examples=examples, settings=job.settings),
            train=examples.train,
            eval=examples.held_out,
            settings=job.settings,
            seed=job.seed,
            folder=folder,
            unanswerable=prompts_to_hold(job.settings, job.data, examples),
            on_step=on_step,
        )
    return _named(trajectory, job, label)


def _named(trajectory: Trajectory, job: TrainingJob, label: str) -> Trajectory:
    return trajectory.model_copy(update={"arm": label, "job": job.digest})
