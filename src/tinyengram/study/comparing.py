"""Trained arms are matched, measured and compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tinyengram.scoring.probes import PromptName
from tinyengram.scoring.scorer import Panel, Scorer
from tinyengram.study.closing import Closer
from tinyengram.study.frontier import curve_weights
from tinyengram.study.matching import MatchedPair, eval_loss, match, trained
from tinyengram.study.measuring import Differences, measurement
from tinyengram.study.plan import Study
from tinyengram.study.results import Comparison, Measurement, Role
from tinyengram.study.statistics import paired_difference
from tinyengram.training.trajectory import Trajectory, TrajectoryPoint


@dataclass(frozen=True)
class Matched:
    """An arm and the reference in one seed.

    Attributes:
        arm, seed: Which.
        pairs: At each level, the deepest first; none where the arm reaches no checkpoint of the reference.
        why_apart: Why the losses of the deepest pair are not close; empty where they are.
    """

    arm: str
    seed: int
    pairs: list[MatchedPair]
    why_apart: str


def match_all(study: Study, of: Mapping[tuple[str, int], Trajectory], closer: Closer) -> list[Matched]:
    """Match every arm to the reference, seed by seed; ``of`` holds the runs by arm and seed."""
    found = []
    for name in study.arms:
        for seed in study.seeds if name != study.reference else ():
            pairs, why = match(of[study.reference, seed], of[name, seed], study.levels), ""
            if pairs:
                pairs[0], why = closer.closer(pairs[0], of[name, seed])
            found.append(Matched(name, seed, pairs, why))
    return found


def checkpoints_asked(
    study: Study, of: Mapping[tuple[str, int], Trajectory], matched: Sequence[Matched]
) -> dict[tuple[str, int, str], bool]:
    """Of which checkpoints, by arm, seed and name, everything is asked (True), and of which what a curve needs."""
    asked: dict[tuple[str, int, str], bool] = {}
    for one in matched:
        for depth, pair in enumerate(one.pairs):
            for arm, point in ((study.reference, pair.reference), (one.arm, pair.other)):
                key = arm, one.seed, str(point.checkpoint)
                asked[key] = asked.get(key, False) or not depth
    for seed in study.seeds:
        asked[study.reference, seed, str(trained(of[study.reference, seed].points)[-1].checkpoint)] = True
    return asked


def compare(
    study: Study, trajectories: Sequence[Trajectory], scorer: Scorer, closer: Closer, out: Path
) -> tuple[list[Measurement], list[Comparison]]:
    """Measure the base, every matched pair and the reference's last checkpoint; compare the pairs.

    The pair at the deepest level is what arms are judged by, and is brought within 5% of loss where that can be done;
    those at further levels are points of a curve, wherever on it they lie.
    """
    of = {(trajectory.arm, trajectory.seed): trajectory for trajectory in trajectories}
    base = scorer.panel("base", None)
    start = trajectories[0].points[0]
    measurements = [measurement(start, base, None, arm="base", role="base", seed=None)]

    def measure(arm: str, seed: int, point: TrajectoryPoint, role: Role, matched_with: str | None = None) -> Panel:
        assert point.checkpoint is not None
        checkpoint = out / "jobs" / of[arm, seed].job / point.checkpoint
        panel = scorer.panel(f"{arm}, seed {seed}, step {point.step}", checkpoint, whole=role != "level")
        measurements.append(measurement(point, panel, base, arm=arm, role=role, seed=seed, matched_with=matched_with))
        return panel

    comparisons = []
    matched = match_all(study, of, closer)
    for name in study.arms:
        if name == study.reference:
            continue
        pairs, curves = [], []
        of_arm = {one.seed: one for one in matched if one.arm == name}
        reached = {seed: one.pairs for seed, one in of_arm.items() if one.pairs}
        for seed, levels in reached.items():
            before, after = Curve(start, base, study.loss_on), Curve(start, base, study.loss_on)
            for depth, pair in enumerate(levels):
                theirs = measure(study.reference, seed, pair.reference, "level" if depth else "matched reference", name)
                ours = measure(name, seed, pair.other, "level" if depth else "matched")
                before.add(pair.reference, theirs)
                after.add(pair.other, ours)
                if not depth:
                    pairs.append((theirs, ours))
            if levels[0].level < eval_loss(start, study.loss_on):  # Else the way down has no length.
                curves.append((before, after, levels[0].level))
        together = study.judged_together(name)
        differences = Differences(pairs, together)
        comparisons.append(
            Comparison(
                arm=name,
                reference=study.reference,
                reached=list(reached),
                missed=[seed for seed in study.seeds if seed not in reached],
                apart={seed: levels[0].apart for seed, levels in reached.items()},
                why_apart={seed: one.why_apart for seed, one in of_arm.items() if one.why_apart},
                mc1=differences.truthfulqa("mc1"),
                mc2=differences.truthfulqa("mc2"),
                shift=differences.shift(base),
                shift_centred=differences.shift_centred(base),
                accuracy=differences.accuracy(),
                drift=differences.drift(),
                right_calls=differences.right_calls(),
                declines=differences.declines(),
                area={
                    prompt: paired_difference(
                        [before.mean_mc2(prompt, level) for before, _, level in curves],
                        [after.mean_mc2(prompt, level) for _, after, level in curves],
                        comparisons=together,
                    )
                    for prompt in study.truthfulqa.prompts
                    if curves and study.levels > 1
                },
            )
        )
    for seed in study.seeds:
        measure(study.reference, seed, trained(of[study.reference, seed].points)[-1], "last")
    return measurements, comparisons


class Curve:
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
        weights = curve_weights(losses, deepest)
        return [
            sum(weight * row.mc2 for weight, row in zip(weights, question, strict=True))
            for question in zip(*rows, strict=True)
        ]
