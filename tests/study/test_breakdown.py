"""A learning rate that breaks a run down ends that run, is told with its step, and leaves the others to go on."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tinyengram.errors import TinyEngramError
from tinyengram.progress import Event, PhaseEvent
from tinyengram.study.plan import Study, load_study, presets
from tinyengram.study.run import run_study


def smoke(folder: Path, rates: list[float]) -> Study:
    content = yaml.safe_load(presets()["smoke"].read_text())
    arm = {"method": "lora", "options": {"r": 4, "init_lora_weights": False}, "rates": rates}
    content |= {"arms": {"lora": arm}, "accuracy": [], "drift": None, "calls": None}
    content["training"] |= {"warmup_ratio": 0.0, "max_steps": 4, "eval_every": 2}
    content["truthfulqa"]["prompts"] = ["plain"]
    for section in ("data", "truthfulqa"):
        content[section]["name"] = str(presets()["smoke"].parent / content[section]["name"])
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump(content))
    return load_study(str(file))


@pytest.mark.slow
def test_the_other_rates_go_on(tmp_path: Path) -> None:
    told: list[Event] = []
    results = run_study(smoke(tmp_path, [1e20, 2e-3]), tmp_path / "out", told.append)
    (trial,) = results.trials
    assert trial.learning_rate == 1e20
    assert trial.broke_down_at in (1, 2, 3)
    assert [run.learning_rate for run in results.trajectories] == [2e-3]
    sentences = [event.text for event in told if isinstance(event, PhaseEvent)]
    assert [one for one in sentences if f"not finite at step {trial.broke_down_at} with learning rate 1e+20" in one]


@pytest.mark.slow
def test_when_none_is_left_the_study_ends_with_step_and_rate(tmp_path: Path) -> None:
    study = smoke(tmp_path, [1e20])
    for _ in range(2):  # The second time nothing is trained anew.
        with pytest.raises(TinyEngramError, match=r"'lora' \(lora\), seed 0, broke down.*step \d.*1e\+20.*a lower"):
            run_study(study, tmp_path / "out")
