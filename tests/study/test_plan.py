"""A study file is checked key by key, and what is wrong is named with its nearest right."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from tinyengram.study.plan import StudyError, load_study, presets

SMOKE = yaml.safe_load(presets()["smoke"].read_text())


def write(tmp_path: Path, **changes: Any) -> str:
    """The smoke study with dotted keys changed; None removes a key."""
    content = copy.deepcopy(SMOKE)
    for dotted, value in changes.items():
        *path, last = dotted.split("__")
        part = content
        for key in path:
            part = part[key]
        if value is None:
            del part[last]
        else:
            part[last] = value
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(content))
    return str(file)


@pytest.mark.parametrize("name", ["quick", "original", "smoke", "evidence"])
def test_every_preset_is_a_study(name: str) -> None:
    study = load_study(name)
    assert study.name == name
    assert study.reference == "lora"
    assert {"lora", "engram"} <= study.arms.keys()


def test_the_original_preset_is_the_published_experiment() -> None:
    study = load_study("original")
    lora, engram = study.settings("lora"), study.settings("engram")
    assert (lora.learning_rate, lora.epochs) == (1e-5, 5)
    assert (engram.learning_rate, engram.epochs) == (2e-5, 7)
    for settings in (lora, engram):
        assert settings.batch_size * settings.gradient_accumulation == 24 * 2 * 4
        assert (settings.adam_beta2, settings.weight_decay, settings.warmup_ratio) == (0.95, 0.005, 0.03)
        assert (settings.lr_scheduler, settings.eval_every, settings.loss_on, settings.bf16) == (
            "cosine",
            50,
            "whole",
            True,
        )
    assert study.arms["engram"].options["engram_vocab_size"] == [500, 100, 100]
    assert study.truthfulqa.limit is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"titel": "x"}, "unknown key 'titel'"),
        ({"data__max_lenght": 5}, "unknown key 'data.max_lenght'.*'max_length'"),
        ({"arms__lora__optoins": {}}, "unknown key 'arms.lora.optoins'.*'options'"),
        ({"arms__lora__training__learnig_rate": 1}, "'arms.lora.training.learnig_rate'.*'learning_rate'"),
        ({"base": None}, "'base' is missing"),
        ({"reference": "lorra"}, "reference 'lorra' is not an arm.*'lora'"),
        ({"seeds": [1, 1]}, "more than once"),
        ({"arms": {}}, "arms"),
        ({"data__max_length": "many"}, "data.max_length.*'many'"),
        ({"data__format": "glave"}, "data.format"),
        ({"training__epochs": 2}, "exactly one of max_steps and epochs"),
        ({"arms__engram__training__loss_on": "whole"}, "same loss"),
        ({"name": "../x"}, "name"),
        ({"levels": 0}, "levels.*0"),
        ({"arms__lora__rates": [1e-3, 1.0000001e-3]}, "rates .* of arm 'lora' names one rate more than once"),
        ({"arms__lora__rates": [1e-3]}, "arms.lora gives both rates and training.learning_rate"),
        ({"arms__lora__rates": [-1.0]}, "arms.lora.rates.0.*-1.0"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(StudyError, match=message):
        load_study(write(tmp_path, **changes))


def test_an_arm_may_have_a_length_of_its_own(tmp_path: Path) -> None:
    study = load_study(write(tmp_path, arms__lora__training={"learning_rate": 1e-3, "epochs": 2}))
    assert (study.settings("lora").epochs, study.settings("lora").max_steps) == (2, None)
    assert study.settings("engram").max_steps == 12


def test_files_are_found_beside_the_study(tmp_path: Path) -> None:
    (tmp_path / "own.jsonl").write_text("{}")
    study = load_study(write(tmp_path, data__name="own.jsonl"))
    assert study.data.name == str(tmp_path / "own.jsonl")


def test_studies_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"no preset 'quik'. Did you mean 'quick'"):
        load_study("quik")
    with pytest.raises(StudyError, match="does not exist"):
        load_study(str(tmp_path / "none.yaml"))
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [1")
    with pytest.raises(StudyError, match="not valid YAML"):
        load_study(str(broken))
    broken.write_text("just text")
    with pytest.raises(StudyError, match="must hold keys"):
        load_study(str(broken))


def test_the_comparison_that_was_decided_on_beforehand_is_judged_by_itself(tmp_path: Path) -> None:
    arms = SMOKE["arms"]
    more = {**arms, "other": arms["lora"], "third": arms["lora"]}
    study = load_study(write(tmp_path, arms=more))
    assert [study.judged_together(arm) for arm in ("engram", "other", "third")] == [3, 3, 3]
    assert "primary" not in study.model_dump(mode="json")  # As in plans that were written before there was one.
    study = load_study(write(tmp_path, arms=more, primary="engram"))
    assert [study.judged_together(arm) for arm in ("engram", "other", "third")] == [1, 2, 2]
    assert study.model_dump(mode="json")["primary"] == "engram"
    for wrong, said in (
        ("engrm", "primary 'engrm' is not an arm. Did you mean 'engram'"),
        ("lora", "reference itself"),
    ):
        with pytest.raises(StudyError, match=said):
            load_study(write(tmp_path, arms=more, primary=wrong))
