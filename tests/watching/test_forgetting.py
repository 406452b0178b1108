"""Forgetting is measured on the way without changing the way, logged, and can end the run or choose what is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig
from transformers import TrainerCallback

from tests.memory.tiny import tiny_config
from tests.watching.watched import LORA, TEXTS, forgotten, others, plain_trainer, sft_trainer, watch
from tinyengram.errors import TinyEngramError
from tinyengram.scoring.drift import measure_drift


class Sink(TrainerCallback):
    """What reaches a callback that comes before, as those of ``report_to`` do."""

    def __init__(self) -> None:
        self.logs: list[dict[str, float]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        self.logs.append(dict(logs))


class TestBits:
    @pytest.mark.parametrize(
        "changes",
        [
            {"gradient_accumulation_steps": 2},
            *(
                pytest.param(one, marks=pytest.mark.slow)
                for one in ({}, {"gradient_checkpointing": True}, {"bf16": True})
            ),
        ],
        ids=str,
    )
    @pytest.mark.parametrize("make", [plain_trainer, sft_trainer])
    def test_a_run_is_the_same_with_and_without(self, tmp_path: Path, make: Any, changes: dict) -> None:
        without = make(tmp_path / "without", **changes)
        without.train()
        watched = make(tmp_path / "watched", **changes)
        watch(watched, every=1, keep_best_under=10.0)
        watched.train()
        assert len(forgotten(watched)) == 6
        assert others(watched) == others(without)
        for ours, theirs in zip(watched.model.parameters(), without.model.parameters(), strict=True):
            assert torch.equal(ours, theirs)

    def test_modes_frozen_parts_and_random_state_are_put_back(self, tmp_path: Path) -> None:
        trainer = plain_trainer(tmp_path)
        for name, parameter in trainer.model.named_parameters():
            if "lora_A" in name:
                parameter.requires_grad_(False)
        trainer.model.train()
        trainer.model.get_submodule("base_model.model.model.norm").eval()
        trainer.model.register_forward_pre_hook(lambda *_: torch.rand(1) and None)  # As rows="shuffled" draws.
        callback = watch(trainer)
        modes = [module.training for module in trainer.model.modules()]
        trainable = [parameter.requires_grad for parameter in trainer.model.parameters()]
        before = torch.get_rng_state()
        callback.on_train_begin(trainer.args, trainer.state, trainer.control, model=trainer.model)
        callback.on_step_end(trainer.args, trainer.state, trainer.control, model=trainer.model)
        assert torch.equal(torch.get_rng_state(), before)
        assert [module.training for module in trainer.model.modules()] == modes
        assert [parameter.requires_grad for parameter in trainer.model.parameters()] == trainable


class TestFigures:
    @pytest.mark.parametrize("config", [LORA, tiny_config()], ids=["lora", "engram"])
    def test_are_what_scoring_finds(self, tmp_path: Path, config: Any) -> None:
        trainer = plain_trainer(tmp_path, config)
        watch(trainer, max_tokens=20)
        trainer.train()
        model = trainer.model.eval()
        found = measure_drift(model, trainer.processing_class, TEXTS, max_tokens=20)
        assert list(forgotten(trainer)) == [2, 4, 6]
        assert forgotten(trainer)[6]["eval_forgetting_kl"] == found.kl > 1e-4
        assert forgotten(trainer)[6]["eval_forgetting_shift"] > 1e-3

    def test_are_zero_before_the_first_step(self, tmp_path: Path) -> None:
        trainer = plain_trainer(tmp_path, eval_on_start=True)
        watch(trainer)
        trainer.train()
        figures = forgotten(trainer)[0]
        assert [figures[f"eval_forgetting_{name}"] for name in ("kl", "mc2", "shift")] == [0, 0, 0]

    def test_come_every_so_many_steps_and_after_the_last(self, tmp_path: Path) -> None:
        trainer = plain_trainer(tmp_path, eval_strategy="no")
        watch(trainer, every=4, questions=())
        trainer.train()
        assert list(forgotten(trainer)) == [4, 6]
        assert "eval_forgetting_mc2" not in forgotten(trainer)[4]

    def test_reach_those_who_report_and_leave_the_loss_its_place(self, tmp_path: Path) -> None:
        trainer = sft_trainer(tmp_path, logging_steps=2)
        sink = Sink()
        trainer.callback_handler.callbacks.insert(0, sink)
        watch(trainer, every=2)
        trainer.train()
        assert sum("eval_forgetting_kl" in logs for logs in sink.logs) == 3
        losses = [logs for logs in sink.logs if "loss" in logs]
        assert len(losses) == 3
        assert all("mean_token_accuracy" in logs for logs in losses)

    def test_can_choose_the_trainers_best_model(self, tmp_path: Path) -> None:
        trainer = plain_trainer(
            tmp_path,
            save_strategy="steps",
            save_steps=2,
            load_best_model_at_end=True,
            metric_for_best_model="eval_forgetting_kl",
            greater_is_better=False,
        )
        watch(trainer)
        trainer.train()
        kl = {step: figures["eval_forgetting_kl"] for step, figures in forgotten(trainer).items()}
        assert trainer.state.best_global_step == min(kl, key=kl.__getitem__)

    def test_an_evaluation_outside_training_is_left_alone(self, tmp_path: Path) -> None:
        trainer = plain_trainer(tmp_path)
        watch(trainer)
        assert "eval_forgetting_kl" not in trainer.evaluate()


class TestStop:
    def test_ends_the_run_once_the_limit_is_passed(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        whole = plain_trainer(tmp_path / "whole")
        watch(whole, every=1)
        whole.train()
        kl = {step: figures["eval_forgetting_kl"] for step, figures in forgotten(whole).items()}
        stopped = plain_trainer(tmp_path / "stopped")
        watch(stopped, every=1, stop_above=(kl[2] + kl[3]) / 2)
        stopped.train()
        assert kl[2] < kl[3]
        assert stopped.state.global_step == 3
        assert "Stopped after step 3" in caplog.text

    def test_ends_a_run_that_broke_down(self, tmp_path: Path) -> None:
        trainer = plain_trainer(tmp_path, learning_rate=1e30, max_grad_norm=0)
        watch(trainer, every=1, stop_above=1e9, questions=())
        trainer.train()
        assert trainer.state.global_step < 6


class TestWithoutABaseBeneath:
    @pytest.mark.parametrize(
        "config",
        [
            pytest.param(LORA, marks=pytest.mark.slow),
            None,
            pytest.param(
                LoraConfig(r=4, target_modules="all-linear", init_lora_weights="pissa"), marks=pytest.mark.slow
            ),
        ],
        ids=["lora", "full", "pissa"],
    )
    def test_a_resumed_run_is_compared_with_the_base(self, tmp_path: Path, config: Any) -> None:
        whole = plain_trainer(tmp_path / "whole", config, save_strategy="steps", save_steps=2, learning_rate=1e-3)
        watch(whole)
        whole.train()
        resumed = plain_trainer(tmp_path / "whole", config, learning_rate=1e-3)
        watch(resumed)
        resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-4"))
        assert 0 < forgotten(whole)[2]["eval_forgetting_kl"] < forgotten(whole)[6]["eval_forgetting_kl"]
        assert forgotten(resumed) == forgotten(whole)
        assert (tmp_path / "whole" / "forgetting_base.safetensors").exists() == (config is not LORA)
        assert sum("eval_forgetting_kl" in entry for entry in resumed.state.log_history) == 3

    def test_what_was_said_must_be_there_and_fit(self, tmp_path: Path) -> None:
        first = plain_trainer(tmp_path, None, save_strategy="steps", save_steps=2)
        watch(first)
        first.train()
        checkpoint = str(tmp_path / "checkpoint-4")
        other = plain_trainer(tmp_path, None)
        watch(other, texts=["Something else."])
        with pytest.raises(TinyEngramError, match="answers to other texts"):
            other.train(resume_from_checkpoint=checkpoint)
        (tmp_path / "forgetting_base.safetensors").write_bytes(b"half")
        damaged = plain_trainer(tmp_path, None)
        watch(damaged)
        with pytest.raises(TinyEngramError, match="cannot be read"):
            damaged.train(resume_from_checkpoint=checkpoint)
        (tmp_path / "forgetting_base.safetensors").unlink()
        lost = plain_trainer(tmp_path, None)
        watch(lost)
        with pytest.raises(TinyEngramError, match="is missing, and the resumed model is no longer the base"):
            lost.train(resume_from_checkpoint=checkpoint)


@pytest.mark.parametrize(
    "config",
    [
        PromptTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM"),
        PrefixTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM"),
    ],
    ids=["prompt", "prefix"],
)
def test_virtual_tokens_are_read_over_and_asked_nothing(tmp_path: Path, config: Any) -> None:
    refused = plain_trainer(tmp_path, config)
    watch(refused)
    with pytest.raises(TinyEngramError, match=r"TUNING puts virtual tokens.*questions=\(\)"):
        refused.train()
    trainer = plain_trainer(tmp_path, config)
    watch(trainer, questions=())
    trainer.train()
    model, tokenizer = trainer.model.eval(), trainer.processing_class
    divergence, count = 0.0, 0
    with torch.no_grad():
        for text in TEXTS:
            ids = torch.tensor([tokenizer.encode(text)])
            ours = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, -ids.shape[1] : -1]
            with model.disable_adapter():
                theirs = model(input_ids=ids).logits[0, :-1]
            ours, theirs = ours.log_softmax(-1), theirs.log_softmax(-1)
            divergence += (theirs.exp() * (theirs - ours)).sum().item()
            count += ids.shape[1] - 1
    assert forgotten(trainer)[6]["eval_forgetting_kl"] == pytest.approx(divergence / count, rel=1e-3)


class TestRefused:
    @pytest.mark.parametrize(
        ("changes", "given", "message"),
        [
            ({"eval_strategy": "no"}, {}, "Nothing would be measured: eval_strategy='no'"),
            ({}, {"every": 0}, "every=0: measure every so many steps"),
            ({"eval_strategy": "no"}, {"every": 2, "keep_best_under": 0.1}, "keep_best_under=0.1 compares eval losses"),
            ({}, {"stop_above": 0.0}, r"stop_above=0\.0: give a divergence above 0"),
            ({}, {"keep_best_under": -1.0}, r"keep_best_under=-1\.0: give a divergence above 0"),
            ({}, {"texts": ()}, r"texts=\(\) leaves nothing to read"),
        ],
    )
    def test_what_makes_no_sense(self, tmp_path: Path, changes: dict, given: dict, message: str) -> None:
        with pytest.raises(TinyEngramError, match=message):
            watch(plain_trainer(tmp_path, **changes), **given)

    def test_a_trainer_without_a_tokenizer(self, tmp_path: Path) -> None:
        trainer = plain_trainer(tmp_path)
        trainer.processing_class = None
        with pytest.raises(TinyEngramError, match="processing_class=tokenizer"):
            watch(trainer)

    def test_sharded_parameters(self, tmp_path: Path) -> None:
        trainer = plain_trainer(tmp_path)
        watch(trainer)
        next(trainer.model.parameters()).ds_id = 0  # As DeepSpeed's ZeRO-3 marks its own.
        with pytest.raises(TinyEngramError, match="its parameters are sharded"):
            trainer.train()
