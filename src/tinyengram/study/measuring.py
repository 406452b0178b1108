"""Panels become figures: one model's, with what changed from the base, and the differences between pairs of models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

from tinyengram.scoring.probes import PromptName
from tinyengram.scoring.scorer import Panel
from tinyengram.study.results import Accuracy, CallAccuracy, Measurement, Retention, TextDrift
from tinyengram.study.statistics import Difference, no_difference, paired_difference
from tinyengram.tasks.calls.judging import Outcome
from tinyengram.training.trajectory import TrajectoryPoint


def measurement(point: TrajectoryPoint, panel: Panel, base: Panel | None, **which: Any) -> Measurement:
    """A panel as figures, with what changed from the base's (None: it is the base's)."""
    from tinyengram.scoring.truthfulqa import centred_shift_by_question, mean_absolute_shift

    change = Differences([(base or panel, panel)], 1)
    mc1, mc2, accuracy = change.truthfulqa("mc1"), change.truthfulqa("mc2"), change.accuracy()
    return Measurement(
        step=point.step,
        between=point.between,
        eval_loss_whole=point.eval_loss_whole,
        eval_loss_answer=point.eval_loss_answer,
        retention={
            name: Retention(
                mc1=scores.mc1,
                mc2=scores.mc2,
                margin=scores.margin,
                shift=None if base is None else mean_absolute_shift(scores, base.truthfulqa[name]),
                shift_centred=None if base is None else fmean(centred_shift_by_question(scores, base.truthfulqa[name])),
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


class Differences:
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

        return self._moved(base, shift_by_question)

    def shift_centred(self, base: Panel) -> dict[PromptName, Difference]:
        """The same, less what all choices of a question moved by together."""
        from tinyengram.scoring.truthfulqa import centred_shift_by_question

        return self._moved(base, centred_shift_by_question)

    def _moved(self, base: Panel, by_question: Callable[[Any, Any], list[float]]) -> dict[PromptName, Difference]:
        found = {}
        for name, scores in base.truthfulqa.items() if self._panels else ():
            rows = [panel.truthfulqa[name].rows for panel in self._panels]
            if rows[::2] == rows[1::2]:  # Neither moved farther.
                found[name] = no_difference(len(rows[0]), len(rows) // 2, self._comparisons)
            else:
                found[name] = self._between([by_question(panel.truthfulqa[name], scores) for panel in self._panels])
        return found

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

    def right_calls(self) -> Difference | None:
        """Of the share of requests that want a call and get the right one."""
        return self._outcome("wanted", "right call")

    def declines(self) -> Difference | None:
        """Of the share of requests that no tool fits and that are declined in prose."""
        return self._outcome("unwanted", "declines in prose")

    def _outcome(self, requests: str, outcome: Outcome) -> Difference | None:
        judged = [getattr(panel.calls, requests) for panel in self._panels if panel.calls is not None]
        if not judged or not judged[0]:
            return None
        return self._between([[float(verdict.outcome == outcome) for verdict in one] for one in judged])

    def _of(self, rows: Sequence[Sequence[Any]], which: str) -> Difference:
        if list(rows[::2]) == list(rows[1::2]):  # Log-likelihoods too, which a share of right answers does not show.
            return no_difference(len(rows[0]), len(rows) // 2, self._comparisons)
        return self._between([[getattr(row, which) for row in one] for one in rows])

    def _between(self, values: Sequence[Sequence[float]]) -> Difference:
        return paired_difference(values[::2], values[1::2], comparisons=self._comparisons)
