"""A LoRA with ``opened_by`` is the base to the bit where it is shut, however it is read, and what it is elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import DynamicCache

from tests.arms import settings
from tests.memory.tiny import full, logits_of, tiny_model
from tests.training.test_opening import learnt
from tinyengram.errors import TinyEngramError
from tinyengram.sources import load_base
from tinyengram.training import check_config, config_for, eval_losses, load_adapter, train_arm
from tinyengram.training.opened import OpenedLoraConfig, open_by_its_rule, refuse_unopenable

OPENING, BASE = [90, 91, 92], tiny_model()
RULES: dict[str, dict[str, Any]] = {
    "after": {"after": [OPENING]},
    "ngrams": {"ngrams": [[91, 90, -1], [92, 91, 90]], "map": None, "pad": 0},
}
IDS = torch.tensor([[5, 6, 90, *OPENING, 3, 4, 7, 90, 91, 8], [4, 90, 91, 5, 92, 3, 4, 5, 6, 7, 8, 3]])
OPEN = {
    "after": [[False] * 5 + [True] * 7, [False] * 12],
    "ngrams": [[at in (4, 5, 10) for at in range(12)], [at == 2 for at in range(12)]],
}


def lora(rule: dict[str, Any]) -> Any:
    config = OpenedLoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", opened_by=rule)
    model = get_peft_model(tiny_model(), config).eval()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(1))
    open_by_its_rule(model, rule)
    return model


def first_open(rule: str) -> list[int]:
    """What is open moves later places too, by attention: bits are the base's up to the first open place."""
    return [row.index(True) if any(row) else len(row) for row in OPEN[rule]]


@pytest.mark.parametrize("rule", RULES)
def test_shut_is_the_base_to_the_bit_and_the_cache_remembers(rule: str) -> None:
    model = lora(RULES[rule])
    found, base = full(model, IDS), full(BASE, IDS)
    for row, first in enumerate(first_open(rule)):
        assert torch.equal(found[row, :first], base[row, :first])
        assert first == IDS.shape[1] or (found[row, first] - base[row, first]).abs().max() > 1e-3
    cache = DynamicCache(config=BASE.config)
    parts = [logits_of(model, IDS[:, at : at + 3], cache=cache) for at in range(0, 12, 3)]
    torch.testing.assert_close(torch.cat(parts, 1), found, atol=2e-4, rtol=0)
    cache.crop(-7)  # To the middle of the opening.
    again = logits_of(model, IDS[:, 5:], cache=cache)
    torch.testing.assert_close(again, found[:, 5:], atol=2e-4, rtol=0)
    with model.disable_adapter():
        assert torch.equal(full(model, IDS), base)


def test_opened_after_one_token_it_is_pefts_activated_lora() -> None:
    ours = lora({"after": [[92]]})
    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", alora_invocation_tokens=[92])
    theirs = get_peft_model(tiny_model(), config).eval()
    theirs.load_state_dict(ours.state_dict())
    assert not torch.equal(theirs(input_ids=IDS).logits, full(BASE, IDS))
    assert torch.equal(full(ours, IDS), theirs(input_ids=IDS).logits)


@pytest.mark.parametrize("rule", RULES)
def test_its_delta_counts_at_the_open_places_alone(rule: str) -> None:
    model, seen = lora(RULES[rule]), []
    factor = next(module for name, module in model.named_modules() if name.endswith("q_proj.lora_B.default"))
    factor.register_forward_hook(lambda module, args, added: seen.append(added.any(-1)))
    full(model, IDS)
    assert seen[0].tolist() == OPEN[rule]


def test_nothing_is_learnt_where_it_is_shut() -> None:
    model = lora(RULES["after"])
    model(input_ids=IDS[1:], labels=IDS[1:]).loss.backward()
    assert all(not p.grad.any() for p in model.parameters() if p.requires_grad)
    model(input_ids=IDS[:1], labels=IDS[:1]).loss.backward()
    assert any(p.grad.any() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("rule", RULES)
def test_a_checkpoint_brings_its_rule_back(rule: str, tmp_path: Path) -> None:
    model = lora(RULES[rule])
    model.save_pretrained(tmp_path)
    assert torch.equal(full(load_adapter(tiny_model(), tmp_path), IDS), full(model, IDS))


@pytest.mark.parametrize(
    ("method", "options", "rule"),
    [
        ("osf", {}, {"after": "tools"}),
        ("prompt_tuning", {}, {"after": "tools"}),
        ("lora", {"use_dora": True}, {"after": "tools"}),
        ("lora", {"init_lora_weights": "pissa"}, {"after": "tools"}),
        ("lora", {"bias": "all"}, {"after": "tools"}),
        ("lora", {}, {"behind": "tools"}),
        ("lora", {}, "tools"),
    ],
)
def test_what_cannot_be_switched_by_place_is_refused(method: str, options: dict[str, Any], rule: Any) -> None:
    with pytest.raises(TinyEngramError, match="opened_by"):
        refuse_unopenable(method, options, rule)


@pytest.mark.parametrize("rule", [{"after": "tools"}, {"ngrams": {"orders": [2, 3]}}])
def test_trained_from_an_arms_options_and_loaded_again(rule: dict[str, Any], tmp_path: Path) -> None:
    base = load_base("tiny-random-llama")
    examples = learnt(tmp_path, base, ["timer", "alarm"] * 5)
    how = settings(max_steps=2)
    options = {"r": 4, "target_modules": "all-linear", "opened_by": rule}
    config = config_for("lora", options, base=base, examples=examples, settings=how)
    assert check_config(config, base) > 0
    done = train_arm(
        arm="null", base=base, config=config, train=examples.train, eval=examples.held_out, settings=how, seed=0,
        folder=tmp_path / "run",
    )  # fmt: skip
    point = done.points[-1]
    model = load_adapter(load_base("tiny-random-llama").model, tmp_path / "run" / str(point.checkpoint))
    loss, _ = eval_losses(model, examples.held_out, batch_size=how.batch_size, pad_token_id=0)
    assert loss == pytest.approx(point.eval_loss_whole, abs=1e-5)
    assert point.eval_loss_whole != done.points[0].eval_loss_whole
