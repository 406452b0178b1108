"""Run a study: check everything, train what is missing, match, score, and write down what was found.

The run folder holds ``plan.yaml``, ``provenance.json``, ``arms/<arm>/seed-<n>/`` (of an arm with ``rates``:
``arms/<arm>/rate-<r>/seed-<n>/``), ``scores/``, ``results.json`` and ``report.html``. Each file is written whole or not
at all, so the same command continues after any interruption.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from tinyengram.files import write_atomically
from tinyengram.study.checks import check_arms, check_folder
from tinyengram.study.finding import describe_finding
from tinyengram.study.frontier import curve_weights
from tinyengram.study.matching import eval_loss, late_train_loss, match, trained
from tinyengram.study.material import Material, data_in_words, load_anew, prepare, unanswerable
from tinyengram.study.plan import PromptName, Study
from tinyengram.study.progress import Clock, Event, PhaseEvent
from tinyengram.study.rehearsal import rehearse
from tinyengram.study.results import (
    Accuracy,
    CallAccuracy,
    Comparison,
    Measurement,
    Results,
    Retention,
    Role,
    RunProvenance,
    TextDrift,
)
from tinyengram.study.scorer import Panel, Scorer
from tinyengram.study.statistics import Difference, paired_difference
from tinyengram.training import Trajectory, TrajectoryPoint

if TYPE_CHECKING:
    from tinyengram.sources import Base

_PACKAGES = ("tinyengram", "torch", "transformers", "peft", "accelerate", "datasets", "tokenizers", "numpy", "scipy")


def run_study(study: Study, out: Path, on_event: Callable[[Event], None] = lambda event: None) -> Results:
    """Run a study in a folder, or finish what an earlier call began there.

    Args:
        study: What to run.
        out: Run folder; created if need be.
        on_event: Told how the run is doing.

    Returns:
        What is also written to ``results.json``; ``report.html`` lies beside it.

    Raises:
        TinyEngramError: Something in the study, its data or the folder cannot be used; nothing was trained then.

    In a run of several processes (``torchrun``) this is for the first; the others call :func:`help_training`.
    """
    from tinyengram.report.page import render_page

    clock = Clock(out / "seconds.json")
    check_folder(study, out)
    on_event(PhaseEvent("Preparing base, data and questions"))
    with clock.phase("prepare"):
        material = prepare(study)
        for sentence in data_in_words(material.account):
            on_event(PhaseEvent(sentence))
        check_arms(study, material, out)
    write_atomically(out / "plan.yaml", _plan_text(study))
    provenance = _provenance(material.base)
    write_atomically(out / "provenance.json", provenance.model_dump_json(indent=2))
    trajectories, trials = _train(study, material, out, clock, on_event)
    scorer = Scorer(study, material, out, clock, on_event)
    measurements, comparisons = _compare(study, trajectories, scorer, out)
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
    write_atomically(out / "report.html", render_page(results))
    return results


def help_training(study: Study, out: Path) -> None:
    """Take part in training every arm, as each process after the first of a distributed run does; writes nothing."""
    _train(study, prepare(study), out, None, lambda event: None)


# --- provenance ------------------------------------------------------------------------------------------------------


def _plan_text(study: Study) -> str:
    return yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _provenance(base: Base) -> RunProvenance:
    import torch

    from tinyengram.hardware import describe

    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return RunProvenance(
        versions=versions,
        hardware=describe(),
        threads=torch.get_num_threads(),
        commit=_commit(),
        base=base.provenance,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _commit() -> str | None:
    """Commit of this code when it runs from a checkout, marked when files differ from it."""
    import subprocess

    if not shutil.which("git"):
        return None
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    run = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return run.stdout.strip() if run.returncode == 0 else None


# --- training --------------------------------------------------------------------------------------------------------


def _train(
    study: Study, material: Material, out: Path, clock: Clock | None, on_event: Callable[[Event], None]
) -> tuple[list[Trajectory], list[Trajectory]]:
    """Train every arm with every seed, or take what is there already; a clock notes how long each took.

    Returns:
        The arms' runs, and the first seed's with learning rates that were not taken.
    """
    from tinyengram.training import breakdown, peft_config, read_trajectory, train_arm, unbroken

    _rehearse_what_is_missing(study, material, out, clock, on_event)
    # Kept here and not only read from the folder: of several processes only the first may see it.
    taken: dict[tuple[str, int], Trajectory] = {}

    def run(name: str, seed: int, rate: float | None) -> Trajectory:
        if (name, seed) in taken:
            return taken[name, seed]
        arm, settings = study.arms[name], study.settings(name, rate)
        folder = _run_folder(study, out, name, seed, settings.learning_rate)
        done = read_trajectory(folder)
        if done is not None and done.finished:
            return done
        on_event(PhaseEvent(f"Training {name}, seed {seed}" + (f", learning rate {rate:g}" if rate else "")))
        with nullcontext() if clock is None else clock.phase(f"train {name}"):
            base = load_anew(study)
            return train_arm(
                arm=name,
                base=base,
                config=peft_config(arm.method, arm.options, base=base, train=material.train, settings=settings),
                train=material.train,
                eval=material.held_out,
                settings=settings,
                seed=seed,
                folder=folder,
                unanswerable=unanswerable(study, settings, material),
                on_step=on_event,
            )

    chosen: dict[str, float | None] = dict.fromkeys(study.arms)
    trials = []
    for name, arm in study.arms.items():
        tried = [run(name, study.seeds[0], rate) for rate in arm.rates]
        if tried:
            best = min(tried, key=late_train_loss)
            chosen[name] = best.learning_rate
            taken[name, study.seeds[0]] = best
            trials += [trial for trial in tried if trial is not best]
            for trial in (one for one in trials if one.arm == name and one.broke_down_at is not None):
                on_event(PhaseEvent(breakdown(trial)))
    return [unbroken(run(name, seed, chosen[name])) for seed in study.seeds for name in study.arms], trials


def _rehearse_what_is_missing(
    study: Study, material: Material, out: Path, clock: Clock | None, on_event: Callable[[Event], None]
) -> None:
    """Try every arm that has something to train; of several processes each takes its part, the first looks at it."""
    from tinyengram.training import read_trajectory

    def finished(arm: str, seed: int) -> bool:
        rates = study.arms[arm].rates or [study.settings(arm).learning_rate]
        runs = [read_trajectory(_run_folder(study, out, arm, seed, rate)) for rate in rates]
        return any(run is not None and run.finished for run in runs)

    missing = [arm for arm in study.arms if not all(finished(arm, seed) for seed in study.seeds)]
    if missing:
        on_event(PhaseEvent(f"Trying each arm on one example: {', '.join(missing)}"))
        with nullcontext() if clock is None else clock.phase("try"):
            rehearse(study, material, missing, looks=clock is not None)


def _run_folder(study: Study, out: Path, arm: str, seed: int, learning_rate: float) -> Path:
    """Where a run is kept; runs of an arm whose learning rate is chosen lie by rate."""
    folder = out / "arms" / arm
    if study.arms[arm].rates:
        folder /= f"rate-{learning_rate:g}"
    return folder / f"seed-{seed}"


# --- comparing -------------------------------------------------------------------------------------------------------


def _compare(
    study: Study, trajectories: Sequence[Trajectory], scorer: Scorer, out: Path
) -> tuple[list[Measurement], list[Comparison]]:
    """Measure the base, every matched pair and the reference's last checkpoint; compare the pairs."""
    of = {(trajectory.arm, trajectory.seed): trajectory for trajectory in trajectories}
    base = scorer.panel("base", None)
    start = trajectories[0].points[0]
    measurements = [_measurement(start, base, None, arm="base", role="base", seed=None)]

    def measure(arm: str, seed: int, point: TrajectoryPoint, role: Role, matched_with: str | None = None) -> Panel:
        assert point.checkpoint is not None
        checkpoint = _run_folder(study, out, arm, seed, of[arm, seed].learning_rate) / point.checkpoint
        panel = scorer.panel(f"{arm}, seed {seed}, step {point.step}", checkpoint, whole=role != "level")
        measurements.append(_measurement(point, panel, base, arm=arm, role=role, seed=seed, matched_with=matched_with))
        return panel

    comparisons = []
    for name in study.arms:
        if name == study.reference:
            continue
        pairs, curves, missed = [], [], []
        for seed in study.seeds:
            matched = match(of[study.reference, seed], of[name, seed], study.levels)
            if not matched:
                missed.append(seed)
                continue
            before, after = _Curve(start, base, study.loss_on), _Curve(start, base, study.loss_on)
            for depth, pair in enumerate(matched):
                theirs = measure(study.reference, seed, pair.reference, "level" if depth else "matched reference", name)
                ours = measure(name, seed, pair.other, "level" if depth else "matched")
                before.add(pair.reference, theirs)
                after.add(pair.other, ours)
                if not depth:
                    pairs.append((theirs, ours))
            curves.append((before, after, matched[0].level))
        differences = _Differences(pairs, len(study.arms) - 1)
        comparisons.append(
            Comparison(
                arm=name,
                reference=study.reference,
                reached=[seed for seed in study.seeds if seed not in missed],
                missed=missed,
                mc1=differences.truthfulqa("mc1"),
                mc2=differences.truthfulqa("mc2"),
                shift=differences.shift(base),
                accuracy=differences.accuracy(),
                drift=differences.drift(),
                area={
                    prompt: paired_difference(
                        [before.mean_mc2(prompt, level) for before, _, level in curves],
                        [after.mean_mc2(prompt, level) for _, after, level in curves],
                        comparisons=len(study.arms) - 1,
                    )
                    for prompt in study.truthfulqa.prompts
                    if curves and study.levels > 1
                },
            )
        )
    for seed in study.seeds:
        measure(study.reference, seed, trained(of[study.reference, seed].points)[-1], "last")
    return measurements, comparisons


class _Curve:
    """What one arm kept on its way down from the base: the base's panel, then measured ones, by eval loss."""

    def __init__(self, start: TrajectoryPoint, base: Panel, loss_on: str) -> None:
        self._loss_on, self._base_loss = loss_on, eval_loss(start, loss_on)
        self._panels = {self._base_loss: base}

    def add(self, point: TrajectoryPoint, panel: Panel) -> None:
        if eval_loss(point, self._loss_on) < self._base_loss:
            self._panels[eval_loss(point, self._loss_on)] = panel

    def mean_mc2(self, prompt: PromptName, deepest: float) -> list[float]:
        """Each question's mean MC2 from the base's loss to ``deepest``; see :mod:`tinyengram.study.frontier`."""
        losses = sorted(self._panels, reverse=True)
        rows = [self._panels[loss].truthfulqa[prompt].rows for loss in losses]
        if deepest >= self._base_loss:  # Nothing was learned, so the way has no length.
            return [row.mc2 for row in rows[0]]
        weights = curve_weights(losses, deepest)
        return [
            sum(weight * row.mc2 for weight, row in zip(weights, question, strict=True))
            for question in zip(*rows, strict=True)
        ]


def _measurement(point: TrajectoryPoint, panel: Panel, base: Panel | None, **which: Any) -> Measurement:
    """A panel as figures, with what changed from the base's (None: it is the base's)."""
    from tinyengram.scoring.truthfulqa import mean_absolute_shift

    change = _Differences([(base or panel, panel)], 1)
    mc1, mc2, accuracy = change.truthfulqa("mc1"), change.truthfulqa("mc2"), change.accuracy()
    return Measurement(
        step=point.step,
        eval_loss_whole=point.eval_loss_whole,
        eval_loss_answer=point.eval_loss_answer,
        retention={
            name: Retention(
                mc1=scores.mc1,
                mc2=scores.mc2,
                margin=scores.margin,
                shift=None if base is None else mean_absolute_shift(scores, base.truthfulqa[name]),
                delta_mc1=None if base is None else mc1[name],
                delta_mc2=None if base is None else mc2[name],
                scores_file=panel.files["truthfulqa", name],
            )
            for name, scores in panel.truthfulqa.items()
        },
        accuracy={
            one_set: {
                name: Accuracy(
                    acc=scores.acc,
                    acc_norm=scores.acc_norm,
                    margin=scores.margin,
                    delta_acc_norm=None if base is None else accuracy[one_set][name],
                    file=panel.files[one_set, name],
                )
                for name, scores in by_prompt.items()
            }
            for one_set, by_prompt in panel.accuracy.items()
        },
        drift=None
        if panel.drift is None
        else TextDrift(kl=panel.drift.kl, perplexity=panel.drift.perplexity, file=panel.files["drift", "general text"]),
        calls=None
        if panel.calls is None
        else CallAccuracy(
            parses=panel.calls.parses,
            functions=panel.calls.functions,
            right=panel.calls.right,
            refrains=panel.calls.refrains if panel.calls.unwanted else None,
            wanted_asked=len(panel.calls.wanted),
            unwanted_asked=len(panel.calls.unwanted),
            outcomes=panel.calls.outcomes,
            unwanted_outcomes=panel.calls.unwanted_outcomes,
            file=panel.files["calls", "calls"],
        ),
        **which,
    )


class _Differences:
    """Differences between pairs of panels, one pair a seed, question by question.

    Args:
        pairs: Before and after.
        comparisons: Of how many comparisons this is one.
    """

    def __init__(self, pairs: Sequence[tuple[Panel, Panel]], comparisons: int) -> None:
        self._panels = [panel for pair in pairs for panel in pair]
        self._comparisons = comparisons

    def truthfulqa(self, which: str) -> dict[PromptName, Difference]:
        """Of ``mc1`` or ``mc2`` for each way of asking."""
        return {
            name: self._of([panel.truthfulqa[name].rows for panel in self._panels], which)
            for name in (self._panels[0].truthfulqa if self._panels else ())
        }

    def shift(self, base: Panel) -> dict[PromptName, Difference]:
        """Of how far the log-likelihoods of a question's choices moved from the base's."""
        from tinyengram.scoring.truthfulqa import shift_by_question

        return {
            name: self._between([shift_by_question(panel.truthfulqa[name], scores) for panel in self._panels])
            for name, scores in base.truthfulqa.items()
            if self._panels
        }

    def accuracy(self) -> dict[str, dict[PromptName, Difference]]:
        """Of ``acc_norm`` for each choice set and way of asking."""
        return {
            one_set: {
                name: self._of([panel.accuracy[one_set][name].rows for panel in self._panels], "correct_norm")
                for name in by_prompt
            }
            # The last: of the base everything is known, of a checkpoint between the levels only the curve.
            for one_set, by_prompt in (self._panels[-1].accuracy if self._panels else {}).items()
        }

    def drift(self) -> Difference | None:
        """Of the divergence from the base per token, text by text."""
        drifts = [panel.drift.rows for panel in self._panels if panel.drift is not None]
        return self._of(drifts, "kl_per_token") if drifts else None

    def _of(self, rows: Sequence[Sequence[Any]], which: str) -> Difference:
        return self._between([[getattr(row, which) for row in one] for one in rows])

    def _between(self, values: Sequence[Sequence[float]]) -> Difference:
        return paired_difference(values[::2], values[1::2], comparisons=self._comparisons)
