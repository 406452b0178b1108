"""Answers that changed: for each question what the base says, what each arm says, and how far apart the two are."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from pydantic import BaseModel

from tinyengram.report.kept import mismatch, read_asked, read_scores, why_missing
from tinyengram.report.respondents import Respondent
from tinyengram.report.texts import Shown, shown
from tinyengram.scoring.asked import AskedQuestion, AskedQuestions, asked_file

Turn = Literal["same", "right to wrong", "wrong to right", "other"]
"""What became of the picked answer: ``other`` is another one that is as right or as wrong."""

_SHOWN = 60
"""Questions on a page at most."""
_BYTES = 370_000
"""Of HTML that they may take; with what stands around them the section stays below 400 kB."""
_LONGEST_QUESTION, _LONGEST_CHOICE, _LONGEST_PROMPT = 500, 240, 1500
# What a question, a choice and a cell of its table take in HTML besides their texts.
_CARD_BYTES, _CHOICE_BYTES, _CELL_BYTES, _COLUMN_BYTES = 700, 85, 43, 140


@dataclass(frozen=True)
class Choice:
    """One choice of a question, with the probability that each column gives it, 0 to 1."""

    text: Shown
    right: bool
    shares: tuple[float, ...]


@dataclass(frozen=True)
class QuestionCard:
    """One question, asked in one way.

    Attributes:
        set_name, prompt, id: Which.
        at: Its place among all that were asked.
        question: Its text.
        choices: In the order in which they were asked.
        picked: For each column the index of the likeliest choice.
        moved: For each column how far its probabilities are from the base's: their total variation distance, half the
            sum of absolute differences, from 0 to 1.
        turns: For each column what became of the picked answer.
    """

    set_name: str
    prompt: str
    id: str
    at: int
    question: Shown
    choices: tuple[Choice, ...]
    picked: tuple[int, ...]
    moved: tuple[float, ...]
    turns: tuple[Turn, ...]

    @property
    def most(self) -> float:
        """How far the column that moved most moved."""
        return max(self.moved)

    @property
    def changes(self) -> list[tuple[Turn, int]]:
        """How many arms changed the picked answer in which way, without those that did not."""
        counts = Counter(turn for turn in self.turns if turn != "same")
        return [(turn, counts[turn]) for turn in get_args(Turn) if counts[turn]]

    @property
    def size(self) -> int:
        """About the bytes that it takes in HTML."""
        columns = len(self.picked)
        texts = self.question.size + sum(choice.text.size for choice in self.choices)
        cells = len(self.choices) * (_CHOICE_BYTES + columns * _CELL_BYTES)
        return _CARD_BYTES + texts + cells + columns * _COLUMN_BYTES


@dataclass(frozen=True)
class AnswerGroup:
    """A set of questions, asked in one way.

    Attributes:
        set_name, prompt: Which.
        asked, shown: How many questions there are, and how many of them the page shows.
        turns: For each column how often the picked answer became what.
        moved: For each column its mean distance from the base.
        example: The first question as it was written for the models.
    """

    set_name: str
    prompt: str
    asked: int
    shown: int
    turns: tuple[Counter[Turn], ...]
    moved: tuple[float, ...]
    example: Shown


@dataclass(frozen=True)
class ChangedAnswers:
    """What the partial ``answers.html`` shows.

    Attributes:
        columns: The base first.
        groups: Sets and ways of asking, in the order of the study.
        cards: Of each group the same number, those that moved most; together sorted by how far.
        reason: Why there is nothing to show, in a sentence.
    """

    columns: Sequence[Respondent]
    groups: Sequence[AnswerGroup] = ()
    cards: Sequence[QuestionCard] = ()
    reason: str | None = None

    @property
    def asked(self) -> int:
        """Questions of all groups."""
        return sum(group.asked for group in self.groups)


class _Row(BaseModel):
    """Of a question's scores what is needed, read without torch: of TruthfulQA by choice, of a choice set in order."""

    log_likelihoods: dict[str, float] | list[float]


class _Rows(BaseModel):
    rows: list[_Row]


def changed_answers(columns: Sequence[Respondent]) -> ChangedAnswers:
    """Compare every arm's answers to the base's.

    Args:
        columns: The base, and what is compared to it; what they were not all asked is passed over.

    Raises:
        TinyEngramError: A file is damaged; names it, and what to do.
    """
    base, *others = columns
    asked = [key for key, file in base.choices.items() if all(_answers(other, key, file) for other in others)]
    if not others or not asked:
        return ChangedAnswers(columns, reason="Not shown: no arm was asked what the base was asked.")
    if reason := why_missing([(column.folder, column.choices[key]) for key in asked for column in columns]):
        return ChangedAnswers(columns, reason=reason)
    found, examples = {}, {}
    for key in asked:
        questions = read_asked(AskedQuestions, base.folder, base.choices[key]).questions
        examples[key] = shown(questions[0].prompt, _LONGEST_PROMPT) if questions else Shown("")
        found[key] = list(_cards(key, questions, columns))
    taken = _that_fit(list(found.values()))
    groups = [
        AnswerGroup(
            set_name=key[0],
            prompt=key[1],
            asked=len(cards),
            shown=len(some),
            turns=tuple(Counter(card.turns[index] for card in cards) for index in range(len(columns))),
            moved=tuple(sum(card.moved[at] for card in cards) / max(1, len(cards)) for at in range(len(columns))),
            example=examples[key],
        )
        for (key, cards), some in zip(found.items(), taken, strict=True)
    ]
    cards = sorted((card for some in taken for card in some), key=lambda card: -card.most)
    return ChangedAnswers(columns, groups, cards)


def _answers(other: Respondent, key: tuple[str, str], file: str) -> bool:
    """Whether another answers what a file of scores of the base answers."""
    return key in other.choices and asked_file(other.choices[key]) == asked_file(file)


def _cards(
    key: tuple[str, str], questions: Sequence[AskedQuestion], columns: Sequence[Respondent]
) -> Iterator[QuestionCard]:
    """Every question of a set, asked in one way.

    Raises:
        TinyEngramError: A file is damaged, or does not fit what was asked.
    """
    files = [(column.folder, column.choices[key]) for column in columns]
    scores = [read_scores(_Rows, *file).rows for file in files]
    for rows, file in zip(scores, files, strict=True):
        if len(rows) != len(questions):
            raise mismatch(*file)
    for at, question in enumerate(questions):
        shares = []
        for rows, file in zip(scores, files, strict=True):
            given = rows[at].log_likelihoods
            if isinstance(given, dict):
                given = [given[choice] for choice in question.choices if choice in given]
            if not len(given) == len(question.choices) == len(question.right):
                raise mismatch(*file)
            shares.append(_softmax(given))
        picked = [share.index(max(share)) for share in shares]
        yield QuestionCard(
            set_name=key[0],
            prompt=key[1],
            id=question.id,
            at=at,
            question=shown(question.question, _LONGEST_QUESTION),
            choices=tuple(
                Choice(shown(text, _LONGEST_CHOICE), right, tuple(share[index] for share in shares))
                for index, (text, right) in enumerate(zip(question.choices, question.right, strict=True))
            ),
            picked=tuple(picked),
            moved=tuple(_distance(shares[0], share) for share in shares),
            turns=tuple(_turn(picked[0], one, question.right) for one in picked),
        )


def _softmax(log_likelihoods: Sequence[float]) -> list[float]:
    """Probabilities of choices, given that one of them is said: MC2 is the sum of those of the right ones."""
    highest = max(log_likelihoods)
    masses = [math.exp(value - highest) for value in log_likelihoods]
    return [mass / sum(masses) for mass in masses]


def _distance(some: Sequence[float], others: Sequence[float]) -> float:
    return sum(abs(one - other) for one, other in zip(some, others, strict=True)) / 2


def _turn(before: int, after: int, right: Sequence[bool]) -> Turn:
    if before == after:
        return "same"
    if right[before] == right[after]:
        return "other"
    return "right to wrong" if right[before] else "wrong to right"


def _that_fit(groups: Sequence[Sequence[QuestionCard]]) -> list[list[QuestionCard]]:
    """Of each group as many as fit on the page, those that moved most; a small group leaves its room to the others."""
    ordered = [sorted(group, key=lambda card: -card.most) for group in groups]
    for each in range(_SHOWN, 0, -1):
        taken = [group[:each] for group in ordered]
        cards = [card for group in taken for card in group]
        if len(cards) <= max(_SHOWN, len(groups)) and sum(card.size for card in cards) <= _BYTES:
            return taken
    return [group[:1] for group in ordered]
