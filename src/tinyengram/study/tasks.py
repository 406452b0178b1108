"""The work of a study in pieces that any process can do: an arm to try, a run to train, a checkpoint to ask.

A process that does them loads the study's material once. What a piece comes to is written into the run folder, as it
is where the study does it itself, so that a piece that was lost is done again and one that is there is taken.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tinyengram.errors import TinyEngramError
from tinyengram.progress import Clock
from tinyengram.study.matching import MatchedPair
from tinyengram.study.plan import Study
from tinyengram.training.trajectory import Trajectory

_DECIDING = ("tinyengram", "torch", "transformers", "peft")


@dataclass(frozen=True)
class Try:
    """Try an arm on one example, before anything is trained."""

    arm: str

    @property
    def job(self) -> str:
        """What is tried."""
        return self.arm

    def __str__(self) -> str:
        return f"Tried {self.arm}"


@dataclass(frozen=True)
class Train:
    """Train an arm with one seed; ``rate`` is one of its ``rates``, or None. ``job`` is the digest that it comes to."""

    arm: str
    seed: int
    rate: float | None
    job: str

    def __str__(self) -> str:
        return f"Trained {self.arm}, seed {self.seed}" + (f", learning rate {self.rate:g}" if self.rate else "")


@dataclass(frozen=True)
class Scale:
    """Scale the last checkpoint of ``source``; the stops of an arm with ``wise_ft``. ``job`` names their folder."""

    arm: str
    source: Trajectory
    job: str

    def __str__(self) -> str:
        return f"Scaled {self.source.arm}, seed {self.source.seed}, for {self.arm}"


@dataclass(frozen=True)
class Close:
    """Look for an adapter between two stops of a run that is nearer to the reference's loss; ``job`` is its folder."""

    pair: MatchedPair
    run: Trajectory
    job: str

    def __str__(self) -> str:
        return f"Looked between stops of {self.run.arm}, seed {self.run.seed}"


@dataclass(frozen=True)
class Ask:
    """Ask a checkpoint, named relative to the run folder; None: the base. ``whole``: everything that is asked."""

    label: str
    checkpoint: str | None
    whole: bool

    @property
    def job(self) -> str | None:
        """What is asked."""
        return self.checkpoint

    def __str__(self) -> str:
        return f"Asked {self.label}"


Task = Try | Train | Scale | Close | Ask


@dataclass(frozen=True)
class Plan:
    """A study that is known by what its JSON says: a process that has its material at hand knows it again."""

    written: str
    study: Study = field(compare=False)  # JSON has no infinity.


@dataclass(frozen=True)
class Order:
    """A task with what a process must know and have to do it.

    Attributes:
        plan: The study.
        out: The run folder, as the process sees it.
        versions: The libraries that decide what a run comes to, as they are where the study is.
        task: What is to be done.
    """

    plan: Plan
    out: str
    versions: dict[str, str]
    task: Task


def order(study: Study, out: Path, task: Task) -> Order:
    """An order by the study of this process."""
    return Order(Plan(study.model_dump_json(), study), str(out.resolve()), _versions(), task)


def carry_out(given: Order) -> dict[str, float]:
    """Do what an order says, in whatever process this is; seconds by phase.

    Raises:
        TinyEngramError: This process has other libraries, or does not see the run folder; or the work cannot be done.
    """
    here = _versions()
    if here != given.versions:
        differ = [name for name in here if here[name] != given.versions[name]]
        told = ", ".join(f"{name} {here[name]} in place of {given.versions[name]}" for name in differ)
        raise TinyEngramError(
            f"A worker ({_place()}) has other versions than the study: {told}. Install the same on every node."
        )
    if not (Path(given.out) / "plan.yaml").is_file():
        raise TinyEngramError(
            f"A worker ({_place()}) does not see the run folder {given.out}. Give an --out on a file system that every "
            "node shares, under the same path."
        )
    return _hand(given.plan, given.out).do(given.task)


def _versions() -> dict[str, str]:
    return {name: version(name) for name in _DECIDING}


def _place() -> str:
    import platform

    return f"on {platform.node()}"


class Hand:
    """Does tasks of one study; its material is loaded once."""

    def __init__(self, study: Study, out: Path) -> None:
        from tinyengram.scoring.scorer import Scorer
        from tinyengram.study.closing import Closer
        from tinyengram.study.jobs import Jobs
        from tinyengram.study.material import prepare
        from tinyengram.study.scaling import losses_of_stops

        self._study, self._out, self._clock = study, out, Clock(None)
        self._material = prepare(study.base, study.data, study.probes)
        self._jobs = Jobs(study, self._material)
        losses = losses_of_stops(study, self._material)
        self._closer = Closer(study.base, losses, out, self._clock, _silent)
        self._scorer = Scorer(study.base, study.probes, self._material.questions, out, self._clock, _silent)

    def do(self, task: Task) -> dict[str, float]:
        """Do a task; seconds by phase."""
        from tinyengram.study.rehearsal import rehearse
        from tinyengram.study.scaling import scaled_run
        from tinyengram.training.run import run_job

        self._clock.seconds.clear()
        if not isinstance(task, Ask):
            self._scorer.forget()  # Not beside what is trained.
        if isinstance(task, Try):
            with self._clock.phase("try"):
                rehearse(self._study, self._material, [task.arm], looks=True)
        elif isinstance(task, Train):
            job = self._jobs.job(task.arm, task.seed, task.rate)
            if job.digest != task.job:
                raise TinyEngramError(
                    f"A worker ({_place()}) reads other data or another base than the study: its job is {job.digest}, "
                    f"not {task.job}. Name files by paths that every node has, the same files under each."
                )
            with self._clock.phase(f"train {task.arm}"):
                run_job(job, self._out, label=task.arm, examples=self._material.examples)
        elif isinstance(task, Scale):
            wise = self._study.arms[task.arm].wise_ft
            assert wise is not None
            with self._clock.phase("scale"):
                scaled_run(task.arm, task.source, wise.scales, self._study, self._material, self._out)
        elif isinstance(task, Close):
            self._closer.closer(task.pair, task.run)
        else:
            checkpoint = None if task.checkpoint is None else self._out / task.checkpoint
            self._scorer.panel(task.label, checkpoint, whole=task.whole)
        return dict(self._clock.seconds)


@lru_cache(maxsize=1)
def _hand(plan: Plan, out: str) -> Hand:
    return Hand(plan.study, Path(out))


def _silent(event: Any) -> None:
    """Who shows the work is elsewhere."""
