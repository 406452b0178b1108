"""Run a study: check everything, train what is missing, match, score, and write down what was found.

The run folder holds ``plan.yaml``, ``inputs.json`` (checksums), ``provenance.json``, ``jobs/<digest>/`` (``job.json``,
``trajectory.json`` and the checkpoints of one training run), ``scores/``, ``asked/`` (what the scores answer),
``results.json`` and ``report.html``. Each file is written whole or not at all, so the same command continues after any
interruption.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path

import yaml

from tinyengram.errors import TinyEngramError
from tinyengram.files import only_process_in, write_atomically
from tinyengram.processes import processes
from tinyengram.progress import Clock, Event, PhaseEvent
from tinyengram.scoring.scorer import Scorer
from tinyengram.study.apart import Apart
from tinyengram.study.checks import check_arms, check_folder
from tinyengram.study.closing import Closer
from tinyengram.study.comparing import compare
from tinyengram.study.crew import Crew
from tinyengram.study.executors import Processes
from tinyengram.study.finding import describe_finding
from tinyengram.study.jobs import check_inputs, rehearse_what_is_missing, train_study
from tinyengram.study.material import data_in_words, prepare
from tinyengram.study.plan import Study
from tinyengram.study.provenance import provenance_of
from tinyengram.study.results import Results
from tinyengram.study.scaling import losses_of_stops
from tinyengram.study.storage import Storage

_WORTH_SAYING = 30
"""Seconds of asking from which on it is said beforehand how long it will take."""


def run_study(
    study: Study,
    out: Path,
    on_event: Callable[[Event], None] = lambda event: None,
    executor: Executor | None = None,
    storage: Storage | None = None,
) -> Results:
    """Run a study in a folder, or finish what an earlier call began there.

    Args:
        study: What to run.
        out: Run folder; created if need be.
        on_event: Told how the run is doing.
        executor: Does the work side by side (:mod:`tinyengram.study.executors`); None: it is done here, one thing after
            the other.
        storage: Where the executor's tasks find what they need and leave what they make, in place of the run folder.

    Returns:
        What is also written to ``results.json``; ``report.html`` lies beside it.

    Raises:
        TinyEngramError: Something in the study, its data, the folder or the storage cannot be used, or another process
            works in the folder; nothing was trained then.

    In a run of several processes (``torchrun``) this is for the first; the others call :func:`help_training`.
    """
    if storage is not None and executor is None:
        raise TinyEngramError("A storage is where the tasks of an executor leave what they make. Give an executor.")
    check_folder(study, out)
    with only_process_in(out):
        apart = None if storage is None else Apart(storage, out)
        if apart is not None:
            apart.begin(study)
        return _run(study, out, on_event, executor, apart)


def _run(
    study: Study, out: Path, on_event: Callable[[Event], None], executor: Executor | None, apart: Apart | None
) -> Results:
    from tinyengram.report.page import render_page
    from tinyengram.report.runs import Run

    clock = Clock(out / "seconds.json")
    on_event(PhaseEvent("Preparing base, data and questions"))
    with clock.phase("prepare"):
        material = prepare(study.base, study.data, study.probes)
        for sentence in data_in_words(material.account):
            on_event(PhaseEvent(sentence))
        check_arms(study, material, out)
        check_inputs(material, out)
    write_atomically(
        out / "plan.yaml", yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    )
    provenance = provenance_of(material.base)
    write_atomically(out / "provenance.json", provenance.model_dump_json(indent=2))
    if isinstance(executor, Processes):
        executor.refuse_too_large(material.base)
    if executor is None:
        rehearse_what_is_missing(study, material, out, clock, on_event)
    scorer = Scorer(study.base, study.probes, material.questions, out, clock, on_event)
    if apart is not None:
        apart.hold()
    if executor is not None:
        Crew(study, material, out, executor, clock, on_event, apart=apart).work_ahead(scorer)
    if processes() == 1:  # Of several, the others would wait for it and give up.
        _tell_how_long(study, scorer, on_event)
    trajectories, trials = train_study(study, material, out, clock, on_event)
    closer = Closer(study.base, losses_of_stops(study, material), out, clock, on_event)
    measurements, comparisons = compare(study, trajectories, scorer, closer, out)
    results = Results(
        study=study,
        provenance=provenance,
        data=material.account,
        trajectories=trajectories,
        trials=trials,
        measurements=measurements,
        comparisons=comparisons,
        seconds=clock.seconds,
        finding="",
    )
    results.finding = describe_finding(results)
    write_atomically(out / "results.json", results.model_dump_json(indent=2))
    write_atomically(out / "report.html", render_page([Run(out, results)]))
    if apart is not None:
        apart.finish()
    return results


def _tell_how_long(study: Study, scorer: Scorer, on_event: Callable[[Event], None]) -> None:
    """Ask the base before anything is trained, and say from how long it took what asking all checkpoints will take."""
    begun = time.monotonic()
    scorer.panel("base", None)
    seconds = time.monotonic() - begun
    checkpoints = len(study.seeds) * (2 * study.levels * (len(study.arms) - 1) + 1)
    if seconds * checkpoints > _WORTH_SAYING:
        on_event(
            PhaseEvent(
                f"The base was asked in {seconds:.0f} s. After training, up to {checkpoints} checkpoints are asked the "
                f"same: about {math.ceil(seconds * checkpoints / 60)} minutes. A smaller truthfulqa.limit takes less."
            )
        )


def help_training(study: Study, out: Path) -> None:
    """Take part in training every arm, as each process after the first of a distributed run does; writes nothing."""
    material = prepare(study.base, study.data, study.probes)
    rehearse_what_is_missing(study, material, out, None, lambda event: None)
    train_study(study, material, out, None, lambda event: None)
