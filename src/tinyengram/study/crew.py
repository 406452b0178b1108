"""The work of a study done side by side, before the study is put together from what is in its run folder.

What a study comes to is decided by :mod:`tinyengram.study.run` alone, which takes what it finds. A crew only does the
work beforehand, wherever and in whatever order; what is lost with a worker is done again, and what nobody did the study
does itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, as_completed
from pathlib import Path
from typing import Any

from tinyengram.errors import TinyEngramError
from tinyengram.progress import Clock, Event, PhaseEvent
from tinyengram.scoring.scorer import Scorer
from tinyengram.study.apart import Apart, carry_out_apart
from tinyengram.study.closing import Closer
from tinyengram.study.comparing import checkpoints_asked, match_all
from tinyengram.study.jobs import Jobs, arms_to_train
from tinyengram.study.matching import MatchedPair, best_of, match
from tinyengram.study.material import Material
from tinyengram.study.plan import Study
from tinyengram.study.scaling import is_scaled, losses_of_stops, scaled_job, scaled_run
from tinyengram.study.tasks import Ask, Close, Scale, Task, Train, Try, carry_out, order
from tinyengram.training.run import result_of
from tinyengram.training.trajectory import Trajectory

_MOST_LOSSES = 3


class Crew:
    """Does the work of a study beforehand.

    Args:
        study: The plan.
        material: What its base and data came to.
        out: Run folder.
        executor: Runs the tasks.
        clock: Adds up the time of all workers.
        on_event: Told what was done.
        apart: Brings what tasks need and make to and from nodes that do not see the run folder; None: they do.
    """

    def __init__(
        self,
        study: Study,
        material: Material,
        out: Path,
        executor: Executor,
        clock: Clock,
        on_event: Callable[[Event], None],
        *,
        apart: Apart | None = None,
    ) -> None:
        self._study, self._material, self._out = study, material, out
        self._executor, self._clock, self._on_event, self._apart = executor, clock, on_event, apart
        self._jobs = Jobs(study, material)

    def work_ahead(self, scorer: Scorer) -> None:
        """Try, train, match and ask whatever is not there yet.

        Args:
            scorer: Of the study; says what was asked before.

        Raises:
            TinyEngramError: A task cannot be done; the others that were begun are finished first.
        """
        study = self._study
        self._do([Try(arm) for arm in arms_to_train(study, self._material, self._out)])
        trained = [name for name, arm in study.arms.items() if arm.wise_ft is None]
        with_rates = [name for name in trained if study.arms[name].rates]
        trials = [self._train(name, study.seeds[0], rate) for name in with_rates for rate in study.arms[name].rates]
        others = [self._train(name, seed, None) for seed in study.seeds for name in trained if name not in with_rates]
        self._do([*self._unasked(scorer, {None: ("base", True)}), *self._untrained([*trials, *others])])
        chosen = {name: self._chosen(name) for name in trained}
        wanted = {(name, seed): self._train(name, seed, chosen[name]) for seed in study.seeds for name in trained}
        self._do(self._untrained(wanted.values()))
        found = {key: self._result(task) for key, task in wanted.items()}
        runs = {key: run for key, run in found.items() if run is not None and run.broke_down_at is None}
        if len(runs) < len(found):
            return  # The study says what is wrong with them.
        self._do(list(self._unscaled(runs)))
        for name, arm in study.arms.items():
            if (wise := arm.wise_ft) is not None:
                runs |= {(name, seed): self._scaled(name, wise.scales, runs[wise.of, seed]) for seed in study.seeds}
        closer = Closer(study.base, losses_of_stops(study, self._material), self._out, self._clock, self._on_event)
        self._do(
            [
                Close(pair, run, str(closer.folder_for(pair, run)))
                for pair, run in self._deepest(runs)
                if not closer.settled(pair, run)
            ]
        )
        asked = checkpoints_asked(study, runs, match_all(study, runs, closer))
        self._do(
            self._unasked(
                scorer,
                {
                    f"jobs/{runs[arm, seed].job}/{checkpoint}": (f"{arm}, seed {seed}, {checkpoint}", whole)
                    for (arm, seed, checkpoint), whole in asked.items()
                },
            )
        )

    def _result(self, task: Train) -> Trajectory | None:
        return result_of(self._jobs.job(task.arm, task.seed, task.rate), self._out, task.arm)

    def _train(self, arm: str, seed: int, rate: float | None) -> Train:
        return Train(arm, seed, rate, self._jobs.job(arm, seed, rate).digest)

    def _chosen(self, arm: str) -> float | None:
        """The learning rate of an arm that tries several; None of one that does not."""
        rates = self._study.arms[arm].rates
        found = [self._result(self._train(arm, self._study.seeds[0], rate)) for rate in rates]
        return best_of([run for run in found if run is not None]).learning_rate if rates else None

    def _unscaled(self, runs: Mapping[tuple[str, int], Trajectory]) -> Iterator[Scale]:
        for name, arm in self._study.arms.items():
            for seed in self._study.seeds if (wise := arm.wise_ft) is not None else ():
                assert wise is not None
                source = runs[wise.of, seed]
                if not is_scaled(source, wise.scales, self._out):
                    yield Scale(name, source, scaled_job(source, wise.scales))

    def _scaled(self, arm: str, scales: Sequence[float], source: Trajectory) -> Trajectory:
        return scaled_run(arm, source, scales, self._study, self._material, self._out)

    def _untrained(self, tasks: Iterable[Train]) -> list[Train]:
        return [task for task in tasks if self._result(task) is None]

    def _deepest(self, runs: dict[tuple[str, int], Trajectory]) -> Iterator[tuple[MatchedPair, Trajectory]]:
        """The deepest pair of each arm with the reference in each seed, and the arm's run."""
        study = self._study
        for name in study.arms:
            for seed in study.seeds if name != study.reference else ():
                if matched := match(runs[study.reference, seed], runs[name, seed], study.levels):
                    yield matched[0], runs[name, seed]

    def _unasked(self, scorer: Scorer, checkpoints: dict[str | None, tuple[str, bool]]) -> list[Ask]:
        return [
            Ask(label, checkpoint, whole)
            for checkpoint, (label, whole) in checkpoints.items()
            if not scorer.knows(None if checkpoint is None else self._out / checkpoint, whole=whole)
        ]

    def _do(self, tasks: Sequence[Task]) -> None:
        """Do tasks side by side; those that were lost with a worker are done again."""
        # Arms that are one job have one folder, in which one process works at a time.
        tasks = list({task.job: task for task in reversed(tasks)}.values())[::-1]
        left, lost = list(tasks), 0
        while left:
            try:
                for task, seconds in self._side_by_side(left):
                    left.remove(task)
                    self._clock.add(seconds)
                    self._on_event(PhaseEvent(f"{task} ({len(tasks) - len(left)} of {len(tasks)})"))
            except BrokenExecutor as error:
                lost += 1
                if lost > _MOST_LOSSES:
                    raise TinyEngramError(
                        f"Workers were lost {lost} times ({error}), with {len(left)} of {len(tasks)} tasks left: for "
                        "want of memory, most likely. Give fewer workers; the same command continues."
                    ) from error
                self._on_event(
                    PhaseEvent(f"A worker was lost ({error}). {len(left)} tasks that it left are done again.")
                )

    def _submit(self, task: Task) -> Future[dict[str, float]]:
        given = order(self._study, self._out, task)
        if self._apart is None:
            return self._executor.submit(carry_out, given)
        return self._executor.submit(carry_out_apart, given, *self._apart.place)

    def _side_by_side(self, tasks: Sequence[Task]) -> Iterator[tuple[Task, dict[str, float]]]:
        """Each task as it is done, with the seconds that it took by phase; an error is raised when all have ended."""
        futures: dict[Future[dict[str, float]], Task] = {}
        failed: BaseException | None = None
        try:
            for task in tasks:
                futures[self._submit(task)] = task
        except BrokenExecutor as broken:  # While tasks are still handed out: those that were are looked after first.
            failed = broken
        try:
            for future in as_completed(futures):
                if future.cancelled():
                    continue
                if (error := future.exception()) is None:
                    if self._apart is not None:
                        self._apart.take(futures[future])
                    yield futures[future], future.result()
                elif failed is None or isinstance(failed, BrokenExecutor):
                    failed = error
                    if not isinstance(error, BrokenExecutor):
                        self._on_event(PhaseEvent("A task failed. What was begun beside it is finished first."))
                        _cancel(futures)
        finally:
            _cancel(futures)
        if failed is not None:
            raise failed


def most_side_by_side(study: Study) -> int:
    """How many tasks of a study can be done at once at most: all of its runs, or all checkpoints that are asked."""
    trained = [arm for arm in study.arms.values() if arm.wise_ft is None]
    runs = sum(max(len(arm.rates), len(study.seeds)) for arm in trained)
    asked = len(study.seeds) * (2 * study.levels * (len(study.arms) - 1) + 1)
    return max(runs + 1, asked)  # The base is asked beside the runs.


def _cancel(futures: Iterable[Future[Any]]) -> None:
    for future in futures:
        future.cancel()
