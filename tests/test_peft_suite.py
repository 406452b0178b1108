"""What `make peft-suite` counts: a refusal is the method's own error, and what else LoRA alone passes is lost."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.test_packaging import LOCK, ROOT
from tinyengram import EngramConfig


@pytest.fixture
def suite(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return import_module("peft_suite")


@pytest.fixture
def engram(suite: ModuleType, tmp_path: Path) -> Any:
    return import_module("peft_suite_plugin").OneMethod("engram", tmp_path / "outcomes.json")


def test_the_tests_of_the_locked_release_are_pinned(suite: ModuleType) -> None:
    assert LOCK["peft"] in suite.SOURCES


def test_what_lora_passes_is_lost_unless_passed_skipped_or_refused(suite: ModuleType) -> None:
    names = [f"test_config.py::TestPeftConfig::test_{number}[one]" for number in range(5)]
    block = "test_custom_models.py::Test::test_in_features_out_features_exposed[MLP]"
    outcomes = ["passed", "skipped", "refused", "failed"]
    lora = {name: ["passed", ""] for name in (*names, block)} | {"test_config.py::test_hub": ["failed", ""]}
    given = {name: [outcome, outcome] for name, outcome in zip(names, outcomes, strict=False)}
    given |= {block: ["failed", ""], "test_config.py::test_hub": ["failed", ""]}
    assert suite.left_over({"lora": lora, "engram": given}) == {names[3]: "failed", names[4]: "was not run"}


def test_only_an_error_of_the_methods_own_code_is_a_refusal(engram: Any) -> None:
    with pytest.raises(ValueError, match="layer_ids") as refused:
        EngramConfig(layer_ids=[])
    assert engram._why(refused.value)[0] == "refused"
    with pytest.raises(ValueError, match="not ours") as failed:
        raise ValueError("not ours")
    assert engram._why(failed.value) == ["failed", "ValueError: not ours"]


def test_an_error_met_while_handling_a_refusal_is_one(engram: Any) -> None:
    with pytest.raises(ValueError, match="layer_ids") as refused:
        EngramConfig(layer_ids=[])
    awaited = AssertionError("another message was awaited")
    awaited.__context__ = refused.value
    assert engram._why(awaited)[0] == "refused"


def test_a_list_with_lora_becomes_one_row_of_the_method(engram: Any) -> None:
    from peft import IA3Config, LoraConfig

    rows = [(IA3Config, {}), (LoraConfig, {"r": 8, "task_type": "CAUSAL_LM"}), (LoraConfig, {"r": 4})]
    mark = pytest.mark.parametrize(("config_cls", "config_kwargs"), rows).mark
    (row,) = engram._with_method(mark, "test_decoder_models").args[1]
    assert row.values[0] is EngramConfig
    assert row.values[1]["task_type"] == "CAUSAL_LM"
    assert "r" not in row.values[1]
    EngramConfig(**row.values[1])
    others = pytest.mark.parametrize("config_cls", [IA3Config]).mark
    assert engram._with_method(others, "test_decoder_models") is others
