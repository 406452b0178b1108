"""A run folder is taken where it is empty, holds this study, or holds another's work that can be used again."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.study.test_nulls import lora, study
from tinyengram.progress import Event, PhaseEvent
from tinyengram.study.checks import check_folder
from tinyengram.study.plan import StudyError
from tinyengram.study.run import run_study


def trains(event: Event) -> bool:
    return isinstance(event, PhaseEvent) and "Training" in str(event)


def test_work_that_was_copied_is_not_done_again(tmp_path: Path) -> None:
    arms = {"lora": lora(), "wide": lora(r=8)}
    said: list[Event] = []
    first = run_study(study(arms), tmp_path / "first", said.append)
    assert any(trains(event) for event in said)
    for part in ("jobs", "scores", "asked"):
        shutil.copytree(tmp_path / "first" / part, tmp_path / "second" / part)
    said.clear()
    second = run_study(study(arms, reference="wide"), tmp_path / "second", said.append)
    assert not any(trains(event) for event in said)
    assert second.trajectories == first.trajectories
    assert [(one.arm, one.reference) for one in second.comparisons] == [("lora", "wide")]


def test_a_folder_with_anything_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "jobs").mkdir()
    check_folder(study({"lora": lora()}), tmp_path)
    (tmp_path / "holiday.jpg").touch()
    with pytest.raises(StudyError, match="is not empty and holds no study"):
        check_folder(study({"lora": lora()}), tmp_path)
