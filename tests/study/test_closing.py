"""Pairs come within 5% of loss by adapters between stops; one that cannot says why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.arms import ENGRAM, EXACT, LORA, examples, settings, tiny_base
from tinyengram.errors import TinyEngramError
from tinyengram.progress import Clock
from tinyengram.study import closing
from tinyengram.study.closing import Closer
from tinyengram.study.matching import MatchedPair, eval_loss
from tinyengram.training import Trajectory, blending, eval_losses, peft_config, train_arm
from tinyengram.training.blending import Blend, CannotBlend
from tinyengram.training.job import BaseSpec

BASE = BaseSpec(name="tiny")
OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "lora": ("lora", LORA),
    "embedded": ("lora", {"r": 4, "target_modules": ["q_proj", "embed_tokens"]}),
    "hashed": ("engram", {**ENGRAM, "kernel_size": 0}),
    "exact": ("engram", {**EXACT, "kernel_size": 0}),
    "convolved": ("engram", ENGRAM),
    "adalora": ("adalora", {"init_r": 4, "target_r": 2, "target_modules": ["q_proj"], "tinit": 1, "tfinal": 1}),
}


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blending, "load_fresh", lambda base: tiny_base())


def losses(model: Any) -> tuple[float, float]:
    return eval_losses(model, examples(8), batch_size=4, pad_token_id=0)


def trained(folder: Path, which: str) -> Trajectory:
    method, options = OPTIONS[which]
    base, given, train = tiny_base(), settings(max_steps=10, eval_every=5, learning_rate=2e-2), examples(8)
    run = train_arm(
        arm=which,
        base=base,
        config=peft_config(method, options, base=base, train=train, settings=given),
        train=train,
        eval=examples(8),
        settings=given,
        seed=0,
        folder=folder / "jobs" / "j",
    )
    return run.model_copy(update={"job": "j"})


def pair_at(run: Trajectory, stop: int, level: float) -> MatchedPair:
    """The arm's stop, matched with a stop of the reference's that has this loss."""
    point = run.points[stop]
    reference = point.model_copy(update={"eval_loss_answer": level, "step": 77})
    return MatchedPair(level=level, reference=reference, other=point, loss=eval_loss(point, "answer"))


def closer(folder: Path) -> Closer:
    return Closer(BASE, losses, folder, Clock(folder / "seconds.json"), lambda event: None)


def middle(run: Trajectory, stop: int) -> float:
    """A loss that is reached between two stops; measured on what is learnt, where every method's falls."""
    above, below = (run.points[at].eval_loss_answer for at in (stop - 1, stop))
    assert below < above
    return 0.3 * below + 0.7 * above


@pytest.mark.parametrize("which", ["lora", "hashed", "exact", "convolved"])
def test_between_two_stops_every_method_of_plain_tensors(
    which: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tinyengram.study.matching.CLOSE", 0.02)  # Nearer than any stop is.
    run = trained(tmp_path, which)
    far = pair_at(run, 2, middle(run, 2))
    assert not far.close
    found, why = closer(tmp_path).closer(far, run)
    if not why:
        assert found.close
        assert found.loss <= found.level  # It never has learnt less.
        assert found.other.between is not None
        assert (found.other.between.before, found.other.between.after) == (5, 10)
        assert 5 < found.other.step < 10
        kept = tmp_path / "jobs" / "j" / str(found.other.checkpoint)
        model = blending.load_adapter(tiny_base().model, kept)
        assert losses(model)[1] == pytest.approx(found.loss, rel=1e-6)  # What was measured is what is kept.
    else:
        pytest.fail(why)


def test_what_was_found_is_not_looked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tinyengram.study.matching.CLOSE", 0.02)
    run = trained(tmp_path, "lora")
    far = pair_at(run, 2, middle(run, 2))
    first, _ = closer(tmp_path).closer(far, run)
    monkeypatch.setattr(blending, "Blend", None)
    assert closer(tmp_path).closer(far, run) == (first, "")


def test_from_the_base_the_change_is_scaled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tinyengram.study.matching.CLOSE", 0.02)
    for which in ("lora", "hashed", "exact"):
        run = trained(tmp_path / which, which)
        found, why = closer(tmp_path / which).closer(pair_at(run, 1, middle(run, 1)), run)
        assert not why
        assert found.close
        assert str(found.other.between).endswith("of the way from the base to step 5")


def test_stops_that_share_a_step_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tinyengram.study.matching.CLOSE", 0.02)
    run = trained(tmp_path, "lora")
    level = middle(run, 2)
    run.points[1].step = run.points[2].step  # As scales of one adapter that are near one another.
    found, why = closer(tmp_path).closer(pair_at(run, 2, level), run)
    assert (why, found.close) == ("", True)
    assert run.points[1].eval_loss_answer > found.loss > run.points[2].eval_loss_answer


@pytest.mark.parametrize("which", ["lora", "embedded", "hashed"])
def test_a_line_from_the_base_begins_at_the_base_and_ends_at_the_checkpoint(which: str, tmp_path: Path) -> None:
    run = trained(tmp_path, which)
    line = Blend(BASE, None, tmp_path / "jobs" / "j" / "checkpoint-10")
    ids = torch.tensor([examples(1)[0].input_ids])

    def logits(share: float) -> torch.Tensor:
        line.move(share)
        with torch.no_grad():
            return line.model(input_ids=ids, use_cache=False).logits

    with torch.no_grad():
        assert torch.equal(logits(0.0), tiny_base().model.eval()(input_ids=ids, use_cache=False).logits)
    line.move(1.0)
    assert losses(line.model)[1] == pytest.approx(run.points[-1].eval_loss_answer, rel=1e-6)


def test_half_of_a_loras_change_is_half_of_the_change(tmp_path: Path) -> None:
    trained(tmp_path, "lora")
    line = Blend(BASE, None, tmp_path / "jobs" / "j" / "checkpoint-10")
    layer = next(module for module in line.model.modules() if hasattr(module, "get_delta_weight"))
    whole = layer.get_delta_weight("default").clone()
    assert whole.any()
    line.move(0.5)
    assert torch.allclose(layer.get_delta_weight("default"), whole / 2)


def test_a_pair_that_cannot_be_brought_nearer_says_why(tmp_path: Path) -> None:
    run = trained(tmp_path, "convolved")
    found, why = closer(tmp_path).closer(pair_at(run, 1, run.points[1].eval_loss_answer * 1.06), run)
    assert "convolution" in why or "no higher loss" in why
    assert found.other == run.points[1]
    with pytest.raises(CannotBlend, match="convolution"):
        Blend(BASE, None, tmp_path / "jobs" / "j" / "checkpoint-5")
    config = tmp_path / "jobs" / "j" / "checkpoint-5" / "adapter_config.json"
    said = json.loads(config.read_text())
    config.write_text(json.dumps({**said, "gate": "other"}))
    with pytest.raises(CannotBlend, match="options change"):
        Blend(BASE, config.parent, tmp_path / "jobs" / "j" / "checkpoint-10")


def test_a_method_whose_change_is_not_linear_is_refused_by_name(tmp_path: Path) -> None:
    trained(tmp_path, "adalora")
    with pytest.raises(CannotBlend, match="adalora"):
        Blend(BASE, None, tmp_path / "jobs" / "j" / "checkpoint-5")


def test_losses_that_jump_are_given_up_and_nothing_is_kept(tmp_path: Path) -> None:
    run = trained(tmp_path, "lora")
    level = run.points[2].eval_loss_answer / 0.9
    run.points[1].eval_loss_answer = 2 * level  # As if the loss fell at once.
    jumping = Closer(BASE, lambda model: (9.0, 0.5 * level), tmp_path, Clock(tmp_path / "s.json"), lambda event: None)
    found, why = jumping.closer(pair_at(run, 2, level), run)
    assert f"{closing._MOST_TRIES} mixtures" in why
    assert not found.close
    assert found.apart == pytest.approx(-0.1)
    assert [file.is_file() for file in (tmp_path / "jobs" / "j").glob("*between*")] == [True], "no adapter, but a note"
    again = Closer(BASE, lambda model: pytest.fail("looked again"), tmp_path, Clock(None), lambda event: None)
    assert again.closer(pair_at(run, 2, level), run) == (found, why)


def test_a_close_pair_is_left_as_it_is(tmp_path: Path) -> None:
    run = trained(tmp_path, "lora")
    near = pair_at(run, 2, run.points[2].eval_loss_answer * 1.04)
    assert closer(tmp_path).closer(near, run) == (near, "")


def test_a_mixture_of_weights_that_are_gone_is_refused_and_not_noted_as_vain(tmp_path: Path) -> None:
    run = trained(tmp_path, "lora")
    weights = tmp_path / "jobs" / "j" / "checkpoint-10" / "adapter_model.safetensors"
    kept = weights.read_bytes()
    weights.unlink()
    with pytest.raises(TinyEngramError, match="checkpoint-10 are not there, and a mixture"):
        closer(tmp_path).closer(pair_at(run, 2, middle(run, 2)), run)
    weights.write_bytes(kept)
    assert closer(tmp_path).closer(pair_at(run, 2, middle(run, 2)), run)[0].close
