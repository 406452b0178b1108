"""Accuracy on multiple-choice questions, as lm-evaluation-harness 0.4.13 scores ARC and PIQA: ``acc`` and ``acc_norm``.

The harness asks ``Question: …\\nAnswer:`` and takes the likeliest choice (``acc``), or the one with the highest
log-likelihood per character (``acc_norm``). Characters are code points of the choice alone, without the space that
joins it to the prompt; bytes count only in its ``acc_bytes``. Of choices that are level the first is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

from pydantic import BaseModel

from tinyengram.scoring.choices import Prompt, choice_log_likelihoods
from tinyengram.tasks.choice_sets import ChoiceQuestion


class AnswerScore(BaseModel):
    """One question's scores.

    Attributes:
        id: Of the question.
        correct: 1 if the right choice is the likeliest, else 0.
        correct_norm: 1 if the right choice has the highest log-likelihood per character, else 0.
        margin: Log-likelihood per character of the right choice minus the highest of the others, in nats.
        log_likelihoods: Of each choice in the question's order, in nats.
    """

    id: str
    correct: float
    correct_norm: float
    margin: float
    log_likelihoods: list[float]


class AccuracyScores(BaseModel):
    """All questions' scores in the order in which they were asked."""

    rows: list[AnswerScore]

    @property
    def acc(self) -> float:
        """Share of questions whose likeliest choice is right."""
        return fmean(row.correct for row in self.rows)

    @property
    def acc_norm(self) -> float:
        """Share of questions whose choice of highest log-likelihood per character is right."""
        return fmean(row.correct_norm for row in self.rows)

    @property
    def margin(self) -> float:
        """Mean margin of the right choice over the best wrong one, in nats per character."""
        return fmean(row.margin for row in self.rows)


def plain_prompt(question: str) -> str:
    """The harness's prompt for ARC and PIQA."""
    return f"Question: {question}\nAnswer:"


PLAIN = Prompt(plain_prompt, " ")


def score_accuracy(
    model: Any,
    tokenizer: Any,
    questions: Sequence[ChoiceQuestion],
    *,
    prompt: Prompt = PLAIN,
    on_done: Callable[[int], None] | None = None,
) -> AccuracyScores:
    """Score a model on multiple-choice questions.

    Args:
        model: In evaluation mode, with or without an adapter.
        tokenizer: Its tokenizer.
        questions: What to ask.
        prompt: How a question is put; the default is the harness's.
        on_done: Called with the number of questions that were just finished.

    Returns:
        One row a question.
    """
    requests = [prompt.request(one.id, one.question, one.choices) for one in questions]
    scores = choice_log_likelihoods(model, tokenizer, requests, on_done=on_done)
    return AccuracyScores(
        rows=[_score(one, found.log_likelihoods) for one, found in zip(questions, scores, strict=True)]
    )


def _score(question: ChoiceQuestion, log_likelihoods: Sequence[float]) -> AnswerScore:
    per_character = [value / len(text) for value, text in zip(log_likelihoods, question.choices, strict=True)]
    others = [value for index, value in enumerate(per_character) if index != question.gold]
    return AnswerScore(
        id=question.id,
        correct=float(log_likelihoods.index(max(log_likelihoods)) == question.gold),
        correct_norm=float(per_character.index(max(per_character)) == question.gold),
        margin=per_character[question.gold] - max(others),
        log_likelihoods=list(log_likelihoods),
    )
