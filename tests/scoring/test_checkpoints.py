"""A checkpoint is known by what it holds; where its weights are gone, by what was noted of them last."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tinyengram.errors import TinyEngramError
from tinyengram.scoring.checkpoints import known_as


def checkpoint(folder: Path, value: float) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "target_modules": ["b", "a"]}))
    save_file({"weight": torch.tensor([value])}, folder / "adapter_model.safetensors")
    return folder


def test_the_key_follows_the_weights_and_outlives_them(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "jobs" / "j" / "checkpoint-1", 1.0)
    first = known_as(folder, tmp_path)
    second = known_as(checkpoint(folder, 2.0), tmp_path)
    assert first != second
    (folder / "adapter_model.safetensors").unlink()
    assert known_as(folder, tmp_path) == second
    assert known_as(checkpoint(folder, 1.0), tmp_path) == first


def test_nothing_is_noted_outside_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = checkpoint(tmp_path / "mine", 1.0)
    monkeypatch.chdir(own)
    assert known_as(Path(), tmp_path / "run") == known_as(own, tmp_path / "run")
    assert not list(tmp_path.rglob("*.key"))


def test_weights_that_are_gone_without_a_note_are_named(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "jobs" / "j" / "checkpoint-1", 1.0)
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(TinyEngramError, match=r"checkpoint-1 are not there, and nothing.*delete .*jobs/j:"):
        known_as(folder, tmp_path)
