"""A method by its short name is a good start on any depth of base; a file of one's own is checked key by key."""

from __future__ import annotations

from pathlib import Path

import pytest

from tinyengram.host import peft_methods
from tinyengram.study.plan import StudyError
from tinyengram.study.recipes import recipe


@pytest.mark.parametrize("blocks", [1, 2, 4, 30, 80])
@pytest.mark.parametrize("method", ["engram", "engram-exact"])
def test_a_memory_sits_on_blocks_that_there_are(method: str, blocks: int) -> None:
    layers = recipe(method, blocks).options["layer_ids"]
    assert layers
    assert len(set(layers)) == len(layers)
    assert all(0 <= layer < blocks for layer in layers)


def test_every_method_of_peft_has_one() -> None:
    for method in peft_methods():
        arm = recipe(method, 4)
        assert arm.method == method
        assert arm.training["learning_rate"] > 0


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("method: lora\noptions: {r: 2}\ntraining: {learning_rate: 1.0e-4}\n")
    assert recipe(str(file), 4).options == {"r": 2}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("method: lora\noption: {r: 2}\n", "unknown key 'option'. Did you mean 'options'"),
        ("- lora\n", "must hold the keys method, options and training"),
        ("method: lora\n\toptions: 3\n", r"line 2, column 1.*Indent with blanks, not tabs"),
        ("options: {r: 2}\n", "'method' is missing"),
        ("method: lora\nrates: [1.0e-3]\n", "rates are for studies"),
        ("wise_ft: {of: lora, scales: [0.5]}\n", "wise_ft scales another arm of a study"),
    ],
)
def test_a_file_that_cannot_be_used(tmp_path: Path, content: str, said: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(content)
    with pytest.raises(StudyError, match=said) as caught:
        recipe(str(file), 4)
    assert "\n" not in str(caught.value)


def test_names_that_nobody_has() -> None:
    with pytest.raises(StudyError, match=r"'lorra' is unknown\. Did you mean 'lora'"):
        recipe("lorra", 4)
    with pytest.raises(StudyError, match="there is no such file"):
        recipe("nowhere.yaml", 4)
