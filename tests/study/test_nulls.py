"""The arms that a sceptic asks for, as the docs write them: they are trained, scaled, matched and shown."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tinyengram.report.runs import load_run
from tinyengram.study.plan import Study, StudyError, parse_study, presets
from tinyengram.study.run import run_study

DOCS = Path(__file__).parents[2] / "docs" / "adding.md"


def documented_arms() -> dict[str, Any]:
    blocks = re.findall(r"```yaml\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    (nulls,) = (block for block in blocks if "wise_ft" in block)
    arms: dict[str, Any] = yaml.safe_load(nulls)["arms"]
    return arms


def study(arms: dict[str, Any], **changes: Any) -> Study:
    content = yaml.safe_load(presets()["smoke"].read_text()) | {
        "arms": arms,
        "accuracy": [],
        "drift": None,
        "calls": None,
    }
    content["truthfulqa"]["prompts"] = ["plain"]
    return parse_study(content | changes, presets()["smoke"])


def lora(**more: Any) -> dict[str, Any]:
    options = {"r": 4, "target_modules": ["q_proj"], **more}
    return {"method": "lora", "options": options, "training": {"learning_rate": 2e-3}}


def test_a_scaled_arm_has_all_else_of_the_one_that_is_scaled() -> None:
    found = study({"lora": lora(), "less": {"wise_ft": {"of": "lora", "scales": [0.5, 0.25]}}})
    less = found.arms["less"]
    assert (less.method, less.options, less.training) == ("lora", lora()["options"], lora()["training"])
    assert less.wise_ft is not None
    assert less.wise_ft.scales == [0.25, 0.5]
    again = found.model_dump(mode="json")
    assert "wise_ft" not in again["arms"]["lora"]  # As in plans that were written before there was one.
    assert Study.model_validate(again) == found


@pytest.mark.parametrize(
    ("arms", "said"),
    [
        ({"lora": lora(), "less": {"wise_ft": {"of": "lra", "scales": [0.5]}}}, "'lra', which no arm trains.*'lora'"),
        ({"lora": lora(), "less": {"wise_ft": {"of": "less", "scales": [0.5]}}}, "'less', which no arm trains"),
        ({"lora": lora(), "less": {**lora(r=2), "wise_ft": {"of": "lora", "scales": [0.5]}}}, "all else of 'lora'"),
        ({"lora": lora(), "less": {"wise_ft": {"of": "lora", "scales": [1.0]}}}, "less than 1"),
        ({"lora": lora(), "less": {"wise_ft": {"of": "lora", "scales": [0.5, 0.5]}}}, "more than once"),
        ({"lora": {"options": {}}}, "'arms.lora.method' is missing"),
        ({"other": lora(), "lora": {"wise_ft": {"of": "other", "scales": [0.5]}}}, "reference 'lora' is scaled"),
    ],
)
def test_what_cannot_be_scaled_is_refused_by_name(arms: dict[str, Any], said: str) -> None:
    with pytest.raises(StudyError, match=said):
        study(arms)


def test_a_change_that_is_not_linear_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    arms = {"lora": lora(use_dora=True), "less": {"wise_ft": {"of": "lora", "scales": [0.5]}}}
    with pytest.raises(StudyError, match="Arm 'less': wise_ft cannot scale 'lora': DoRA"):
        run_study(study(arms), tmp_path)
    assert not (tmp_path / "jobs").exists()


def test_a_scaled_arm_is_matched_and_shown(tmp_path: Path) -> None:
    found = run_study(study({"lora": lora(), "less": {"wise_ft": {"of": "lora", "scales": [0.9]}}}), tmp_path)
    whole, less = found.trajectories
    assert less.points[0] == whole.points[0]
    assert str(less.points[1].between) == "0.9 of the way from the base to step 12"
    assert less.points[0].eval_loss_answer > less.points[1].eval_loss_answer > whole.points[-1].eval_loss_answer
    assert "lora, that of lora scaled" in (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("part", ["lora", "hashed", "exact"])
def test_the_documented_arms_run(part: str, tmp_path: Path) -> None:
    arms = documented_arms()
    chosen = {name: arm for name, arm in arms.items() if name.startswith(part)}
    if part != "lora":
        chosen = {"lora": arms["lora"], **chosen}
    found = run_study(study(chosen), tmp_path)
    runs = {run.arm: run for run in found.trajectories}
    assert list(runs) == list(chosen)
    for run in runs.values():  # It learns: not even frozen tables leave nothing to train.
        assert min(point.eval_loss_answer for point in run.points[1:]) < run.points[0].eval_loss_answer, run.arm
    if part == "lora":
        assert [point.step for point in runs["lora-slow"].points][-1] == 24
        assert [str(point.between) for point in runs["lora-scaled"].points[1:]] == [
            f"{scale} of the way from the base to step 12" for scale in (0.25, 0.5, 0.75)
        ]
        whole = [run.points[0].eval_loss_answer, *(point.eval_loss_answer for point in runs["lora-scaled"].points[1:])]
        assert whole == sorted(whole, reverse=True)
        scaled = next(one for one in found.comparisons if one.arm == "lora-scaled")
        assert scaled.reached == [0]
        page = (tmp_path / "report.html").read_text(encoding="utf-8")
        assert "lora, that of lora scaled" in page
        assert runs["lora-held"].held == {"no_tools": 32, "other_tools": 32}
        assert "lora-held was held to the base on 64 prompts: 32 without tools, 32 with another" in page
        again = run_study(study(chosen), tmp_path)
        assert again.trajectories == found.trajectories
        assert again.comparisons == found.comparisons
    read = load_run(tmp_path).content
    assert (read.study, read.trajectories, read.comparisons) == (found.study, found.trajectories, found.comparisons)
