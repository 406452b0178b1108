"""What a run keeps is the best that stayed near the base, whole or not there, and never another run's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from tests.watching.watched import TEXTS, forgotten, plain_trainer, rows, spread, watch
from tinyengram.errors import TinyEngramError
from tinyengram.scoring.drift import measure_drift


class TestKept:
    def test_is_the_best_under_the_limit(self, tmp_path: Path) -> None:
        whole = plain_trainer(tmp_path / "whole")
        watch(whole)
        whole.train()
        kl = {step: figures["eval_forgetting_kl"] for step, figures in forgotten(whole).items()}
        assert kl[2] < kl[4] < kl[6]
        trainer = plain_trainer(tmp_path / "kept")
        watch(trainer, keep_best_under=(kl[4] + kl[6]) / 2)
        trainer.train()
        folder = tmp_path / "kept" / "kept"
        losses = {entry["step"]: entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry}
        best = min((2, 4), key=losses.__getitem__)
        note = json.loads((folder / "forgetting.json").read_text())
        assert note["step"] == best
        assert note["eval_loss"] == losses[best] > losses[6]
        base = spread()
        loaded = PeftModel.from_pretrained(base.model, folder).eval()
        assert measure_drift(loaded, base.tokenizer, TEXTS, max_tokens=64).kl == pytest.approx(kl[best], rel=1e-4)
        assert [path.name for path in (tmp_path / "kept").iterdir()] == ["kept"]

    def test_nothing_is_where_nothing_was_near_enough(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        trainer = plain_trainer(tmp_path)
        watch(trainer, keep_best_under=1e-9)
        trainer.train()
        assert not (tmp_path / "kept").exists()
        assert "Nothing was kept" in caplog.text

    def test_is_whole_whatever_cuts_the_writing_off(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        trainer = plain_trainer(tmp_path)
        callback = watch(trainer, keep_best_under=10.0)
        save, calls = trainer.model.save_pretrained, []

        def cut(folder: Path) -> None:
            save(folder)
            calls.append(folder)
            if len(calls) == 2:
                raise KeyboardInterrupt

        monkeypatch.setattr(trainer.model, "save_pretrained", cut)
        with pytest.raises(KeyboardInterrupt):
            trainer.train()
        assert [path.name for path in tmp_path.iterdir()] == ["kept"]
        assert json.loads((tmp_path / "kept" / "forgetting.json").read_text())["step"] == 2
        (tmp_path / "kept").rename(tmp_path / "kept.before")  # Cut off between the two renames.
        assert callback._kept is not None
        callback._kept.begin(fresh=False)
        assert (tmp_path / "kept").exists()

    def test_of_another_run_is_not_overwritten(self, tmp_path: Path) -> None:
        first = plain_trainer(tmp_path)
        watch(first, keep_best_under=10.0)
        first.train()
        again = plain_trainer(tmp_path)
        watch(again, keep_best_under=10.0)
        with pytest.raises(TinyEngramError, match="holds what an earlier run kept"):
            again.train()

    def test_of_several_sets_is_chosen_by_the_one_that_is_named(self, tmp_path: Path) -> None:
        sets = {"a": rows(2), "b": rows(3)}
        with pytest.raises(TinyEngramError, match="metric_for_best_model='eval_a_loss'"):
            watch(plain_trainer(tmp_path, eval_dataset=sets), keep_best_under=1.0)
        trainer = plain_trainer(tmp_path, eval_dataset=sets, metric_for_best_model="b_loss", greater_is_better=False)
        watch(trainer, keep_best_under=10.0)
        trainer.train()
        assert "eval_b_loss" in json.loads((tmp_path / "kept" / "forgetting.json").read_text())

    def test_a_resumed_run_keeps_what_was_better(self, tmp_path: Path) -> None:
        first = plain_trainer(tmp_path, save_strategy="steps", save_steps=2)
        watch(first, keep_best_under=10.0, questions=())
        first.train()
        before = (tmp_path / "kept" / "forgetting.json").stat()
        assert json.loads((tmp_path / "kept" / "forgetting.json").read_text())["step"] == 6
        resumed = plain_trainer(tmp_path)
        watch(resumed, keep_best_under=10.0, questions=())
        resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
        assert (tmp_path / "kept" / "forgetting.json").stat().st_mtime_ns == before.st_mtime_ns

    def test_of_a_full_fine_tune_is_the_model(self, tmp_path: Path) -> None:
        trainer = plain_trainer(tmp_path, None, max_steps=2)
        watch(trainer, keep_best_under=10.0, questions=())
        trainer.train()
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "kept")
        for ours, theirs in zip(trainer.model.parameters(), loaded.parameters(), strict=True):
            assert torch.equal(ours, theirs)
