"""An arm trains both losses truly, resumes to the bit, and refuses what does not fit before it begins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.arms import ENGRAM, EXACT, LORA, examples, settings, tiny_base
from tinyengram.errors import TinyEngramError
from tinyengram.files import sha256_of
from tinyengram.progress import StepEvent
from tinyengram.sources import Base
from tinyengram.study.matching import late_train_loss
from tinyengram.training import check_config, eval_losses, peft_config, read_trajectory, train_arm


@pytest.fixture
def base() -> Base:
    return tiny_base()


def run(base: Base, folder: Path, method: str, options: dict, on_step=None, **changes: Any):
    train = examples(40)
    return train_arm(
        arm=method,
        base=base,
        config=peft_config(method, options, base=base, train=train),
        train=train,
        eval=examples(10, seed=1),
        settings=settings(**changes),
        seed=3,
        folder=folder,
        on_step=on_step,
    )


def test_both_eval_losses_are_means_over_tokens(base: Base) -> None:
    held_out = examples(7, seed=1)
    sums, counts = [0.0, 0.0], [0, 0]
    for example in held_out:
        with torch.no_grad():
            logits = base.model(torch.tensor([example.input_ids])).logits[0]
        for at in range(1, len(example.input_ids)):
            loss = -logits[at - 1].log_softmax(-1)[example.input_ids[at]].item()
            sums[0], counts[0] = sums[0] + loss, counts[0] + 1
            if example.answer_mask[at]:
                sums[1], counts[1] = sums[1] + loss, counts[1] + 1
    for batch_size in (1, 3, 7):
        whole, answer = eval_losses(base.model, held_out, batch_size=batch_size, pad_token_id=0)
        assert whole == pytest.approx(sums[0] / counts[0], rel=1e-5)
        assert answer == pytest.approx(sums[1] / counts[1], rel=1e-5)


@pytest.mark.parametrize(("method", "options"), [("lora", LORA), ("engram", ENGRAM), ("engram", EXACT), ("ia3", {})])
def test_an_arm_learns_and_names_whole_checkpoints(base: Base, tmp_path: Path, method: str, options: dict) -> None:
    if method == "ia3":
        options = {"target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]}
    news: list[StepEvent] = []
    trajectory = run(base, tmp_path, method, options, news.append, learning_rate=0.02)
    assert [point.step for point in trajectory.points] == [0, 5, 10, 13]
    assert trajectory.finished
    assert trajectory.points[-1].eval_loss_answer < trajectory.points[0].eval_loss_answer
    assert trajectory.points[0].checkpoint is None
    for point in trajectory.points[1:]:
        held = {path.name for path in (tmp_path / str(point.checkpoint)).iterdir()}
        assert held == {"adapter_config.json", "adapter_model.safetensors"}
    assert trajectory.points[-1].tokens > trajectory.points[1].tokens > 0
    assert news[-1].step == 13


def measured(trajectory: Any) -> list[tuple]:
    return [
        (point.step, point.tokens, point.train_loss, point.eval_loss_whole, point.eval_loss_answer)
        for point in trajectory.points
    ]


@pytest.mark.parametrize(("method", "options"), [("lora", LORA), ("engram", ENGRAM)])
@pytest.mark.parametrize("cut_at", [3, 8])
def test_an_interrupted_arm_ends_with_the_same_bits(tmp_path: Path, method: str, options: dict, cut_at: int) -> None:
    def fresh() -> Base:
        return tiny_base()

    def cut(event: StepEvent) -> None:
        if event.step == cut_at:
            raise KeyboardInterrupt

    whole = run(fresh(), tmp_path / "whole", method, options)
    with pytest.raises(KeyboardInterrupt):
        run(fresh(), tmp_path / "cut", method, options, cut)
    # What a kill in the middle of writing leaves behind.
    (tmp_path / "cut" / "checkpoint-10").mkdir(exist_ok=True)
    (tmp_path / "cut" / "checkpoint-10" / "adapter_model.safetensors").write_bytes(b"half")
    continued = run(fresh(), tmp_path / "cut", method, options)
    assert measured(continued) == measured(whole)
    last = f"checkpoint-13/{'adapter_model.safetensors'}"
    assert sha256_of(tmp_path / "cut" / last) == sha256_of(tmp_path / "whole" / last)


def test_a_run_that_breaks_down_is_seen_and_never_chosen(base: Base, tmp_path: Path) -> None:
    broken = run(base, tmp_path, "lora", {**LORA, "init_lora_weights": False}, learning_rate=1e20)
    assert read_trajectory(tmp_path) is not None
    assert late_train_loss(broken) == float("inf")


def test_a_method_that_looks_at_the_weights_is_checked_too(base: Base) -> None:
    config = peft_config("shira", {"r": 2, "target_modules": ["q_proj"]}, base=base)
    before = {name: parameter.clone() for name, parameter in base.model.named_parameters()}
    assert check_config(config, base) == 4 * 2 * (32 + 32)
    assert {name for name, _ in base.model.named_parameters()} == before.keys()


def test_a_finished_arm_is_not_trained_again(base: Base, tmp_path: Path) -> None:
    trajectory = run(base, tmp_path, "lora", LORA)
    never: list[StepEvent] = []
    again = run(Base(None, base.tokenizer, base.provenance), tmp_path, "lora", LORA, never.append)
    assert again == trajectory
    assert not never


def test_arms_see_the_data_in_the_same_order(base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tinyengram.training.trainer as module

    orders: dict[str, list[str]] = {"lora": [], "engram": []}
    collate_batch = module.collate
    for method, options in (("lora", LORA), ("engram", ENGRAM)):

        def note(batch, *, loss_on, pad_token_id, method=method):
            orders[method] += [example.id for example in batch if example.id.startswith("0:")]
            return collate_batch(batch, loss_on=loss_on, pad_token_id=pad_token_id)

        monkeypatch.setattr(module, "collate", note)
        run(tiny_base(), tmp_path / method, method, options)
    assert orders["lora"] == orders["engram"]
    assert len(set(orders["lora"])) == 40


class TestRefused:
    def test_unknown_method_names_the_nearest(self, base: Base) -> None:
        with pytest.raises(TinyEngramError, match=r"'lorra' is unknown. Did you mean 'lora'"):
            peft_config("lorra", {}, base=base)

    def test_unknown_option_names_the_nearest(self, base: Base) -> None:
        with pytest.raises(TinyEngramError, match=r"'layer_id' is unknown.*'layer_ids'"):
            peft_config("engram", {"layer_id": [1]}, base=base)
        with pytest.raises(TinyEngramError, match=r"'lora_alfa'.*'lora_alpha'"):
            peft_config("lora", {"lora_alfa": 3}, base=base)

    def test_options_that_cannot_work(self, base: Base) -> None:
        with pytest.raises(TinyEngramError, match="at least one block index"):
            peft_config("engram", {**ENGRAM, "layer_ids": []}, base=base)

    def test_a_layer_beyond_the_depth(self, base: Base) -> None:
        with pytest.raises(TinyEngramError, match=r"names \[40\], but the model has 4 blocks"):
            check_config(peft_config("engram", {**ENGRAM, "layer_ids": [40]}, base=base), base)

    def test_target_modules_that_the_base_does_not_have(self, base: Base) -> None:
        with pytest.raises(TinyEngramError, match="qqq"):
            check_config(peft_config("lora", {"target_modules": ["qqq"]}, base=base), base)

    def test_checking_leaves_the_base_as_it_is(self, base: Base) -> None:
        before = [name for name, _ in base.model.named_modules()]
        assert check_config(peft_config("engram", ENGRAM, base=base), base) > 0
        assert [name for name, _ in base.model.named_modules()] == before

    @pytest.mark.parametrize("lengths", [{"max_steps": None}, {"epochs": 2.0}])
    def test_settings_without_one_length(self, lengths: dict) -> None:
        with pytest.raises(ValueError, match="exactly one of max_steps and epochs"):
            settings(**lengths)
