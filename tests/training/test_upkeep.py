"""What methods ask of a loop besides a loss is done: AdaLoRA's term and schedule, EVA's look at the data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model

from tests.arms import examples, settings, tiny_base
from tinyengram.training import Trajectory, eval_losses, load_adapter, peft_config, train_arm
from tinyengram.training.batches import collate
from tinyengram.training.losses import eval_losses as losses
from tinyengram.training.upkeep import own_penalty

ADALORA: dict[str, Any] = {"init_r": 6, "target_r": 2, "tinit": 2, "tfinal": 3, "deltaT": 2}


def run(folder: Path, method: str, options: dict[str, Any], **changes: Any) -> Trajectory:
    base, train, given = tiny_base(), examples(40), settings(**changes)
    return train_arm(
        arm=method,
        base=base,
        config=peft_config(method, options, base=base, train=train, settings=given),
        train=train,
        eval=examples(10, seed=1),
        settings=given,
        seed=3,
        folder=folder,
    )


def checked(folder: Path, trajectory: Trajectory) -> list[Any]:
    """Every checkpoint, which loses what was measured when it was written."""
    models = []
    for point in trajectory.points[1:]:
        model: Any = load_adapter(tiny_base().model, folder / str(point.checkpoint))
        found = eval_losses(model, examples(10, seed=1), batch_size=4, pad_token_id=0)
        assert found == pytest.approx((point.eval_loss_whole, point.eval_loss_answer), rel=1e-6)
        models.append(model)
    return models


def kept_values(model: Any) -> int:
    return sum(int((value != 0).sum()) for name, value in model.named_parameters() if "lora_E" in name)


def test_adalora_shrinks_to_its_budget_and_every_checkpoint_is_whole(tmp_path: Path) -> None:
    trajectory = run(tmp_path, "adalora", ADALORA, learning_rate=0.05)
    models = checked(tmp_path, trajectory)
    matrices = 4 * 2
    assert [point.step for point in trajectory.points] == [0, 5, 10, 13]
    assert kept_values(models[0]) > kept_values(models[1]) == kept_values(models[2]) == 2 * matrices


def test_adalora_trains_the_loss_that_peft_gives_it() -> None:
    base = tiny_base()
    config = peft_config("adalora", ADALORA, base=base, settings=settings())
    model: Any = get_peft_model(base.model, config)
    batch = collate(examples(1), loss_on="whole", pad_token_id=0)
    with torch.no_grad():
        own = model(**batch).loss.item()
    tokens, _ = losses(model, examples(1), batch_size=1, pad_token_id=0)
    assert float(own_penalty(model)) == pytest.approx(own - tokens, rel=1e-4)
    assert float(own_penalty(model)) > 0.1


def test_the_term_is_trained(tmp_path: Path) -> None:
    losses = []
    for weight in (0.0, 0.5):
        folder = tmp_path / str(weight)
        given = {**ADALORA, "tinit": 0, "tfinal": 0, "orth_reg_weight": weight}
        losses.append(run(folder, "adalora", given, learning_rate=1e-5, max_steps=2).points[-1].train_loss)
    assert losses[1] - losses[0] > 0.1


def test_methods_without_a_term_of_their_own_add_nothing() -> None:
    base = tiny_base()
    for method in ("lora", "prompt_tuning"):
        assert own_penalty(get_peft_model(tiny_base().model, peft_config(method, {}, base=base))) == 0


def test_kasa_adds_its_term() -> None:
    base = tiny_base()
    config = peft_config("lora", {"kasa_config": {}, "target_modules": ["q_proj"]}, base=base)
    model: Any = get_peft_model(base.model, config)
    assert float(own_penalty(model)) > 0


def test_eva_looks_at_the_training_data(tmp_path: Path) -> None:
    options = {"init_lora_weights": "eva", "r": 4, "target_modules": ["q_proj", "down_proj"]}
    trajectory = run(tmp_path, "lora", options, learning_rate=1e-4, max_steps=2)
    (model,) = checked(tmp_path, trajectory)
    factors = [value for name, value in model.named_parameters() if "lora_A" in name and len(value)]
    # Directions of inputs, which are orthonormal; LoRA's own start is not.
    for factor in factors:
        assert torch.allclose(factor @ factor.T, torch.eye(len(factor)), atol=0.05)


@pytest.mark.parametrize("init", ["pissa", "olora", "orthogonal", "mica", "gaussian", False])
def test_other_beginnings_are_the_same_once_loaded(tmp_path: Path, init: Any) -> None:
    options = {"init_lora_weights": init, "r": 4, "target_modules": ["q_proj", "down_proj"]}
    checked(tmp_path, run(tmp_path, "lora", options, max_steps=2))
