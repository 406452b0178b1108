"""Prompts to which a call is the wrong answer, the base's own answers to them, and the distance from the base there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, PrefixTuningConfig, PromptTuningConfig, get_peft_model

from tests.arms import LORA, examples, settings, tiny_base
from tinyengram.errors import TinyEngramError
from tinyengram.sources import Base
from tinyengram.training import peft_config, train_arm
from tinyengram.training.holding import answered_by_base, divergence_from_base
from tinyengram.training.unanswerable import HeldPrompt


@pytest.fixture
def base() -> Base:
    return tiny_base()


def test_answers_are_the_bases_own_whatever_is_padded(base: Base) -> None:
    prompts = [HeldPrompt([5, 6, 7]), HeldPrompt([8, 9, 10, 11, 12, 13])]
    examples = answered_by_base(base.model, prompts, pad_token_id=0, new_tokens=5)
    for prompt, held in zip(prompts, examples, strict=True):
        example = held.example
        assert held.reference is example
        alone = base.model.generate(
            input_ids=torch.tensor([prompt.ids]), max_new_tokens=5, do_sample=False, pad_token_id=0
        )[0].tolist()
        assert example.input_ids == alone
        assert [token for token, own in zip(example.input_ids, example.answer_mask, strict=True) if own] == (
            alone[len(prompt.ids) :]
        )


def test_a_base_that_calls_where_it_should_not_is_asked_without_the_tools(base: Base) -> None:
    """Then the model, with the tools, is held to what the base says without them."""
    asked = [HeldPrompt([5, 6, 7, 8], bare=[7, 8]), HeldPrompt([9, 10, 11], bare=[11]), HeldPrompt([9, 10])]
    own = answered_by_base(base.model, asked, pad_token_id=0, new_tokens=4)
    wrong = [
        token for token, marked in zip(own[0].example.input_ids, own[0].example.answer_mask, strict=True) if marked
    ]
    held = answered_by_base(base.model, asked, pad_token_id=0, new_tokens=4, is_call=lambda answer: answer == wrong)
    assert held[1:] == own[1:]
    (bare,) = answered_by_base(base.model, [HeldPrompt([7, 8])], pad_token_id=0, new_tokens=4)
    answer = bare.example.input_ids[2:]
    assert answer != wrong
    assert held[0].example.input_ids == [5, 6, 7, 8, *answer]
    assert held[0].reference.input_ids == [7, 8, *answer]
    model = get_peft_model(base.model, peft_config("lora", {"target_modules": ["q_proj"]}, base=base))
    found = divergence_from_base(model, held[:1], pad_token_id=0)
    with torch.no_grad():
        ours = model(torch.tensor([held[0].example.input_ids])).logits[0, 3:-1].log_softmax(-1)
        theirs = model(torch.tensor([held[0].reference.input_ids])).logits[0, 1:-1].log_softmax(-1)
    torch.testing.assert_close(found.detach(), (theirs.exp() * (theirs - ours)).sum(-1).mean(), rtol=1e-4, atol=1e-6)


def test_divergence_is_zero_at_the_base_and_the_definition_elsewhere(base: Base) -> None:
    examples = answered_by_base(
        base.model, [HeldPrompt([5, 6, 7]), HeldPrompt([8, 9, 10, 11])], pad_token_id=0, new_tokens=4
    )
    model = get_peft_model(base.model, peft_config("lora", {"target_modules": ["q_proj"]}, base=base)).train()
    assert divergence_from_base(model, examples, pad_token_id=0).item() == 0
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    found = divergence_from_base(model, examples, pad_token_id=0)
    assert found.requires_grad
    assert model.training
    terms = []
    for example in (one.example for one in examples):
        ids = torch.tensor([example.input_ids])
        ours = model(ids).logits.log_softmax(-1)[0, :-1]
        with model.disable_adapter():
            theirs = model(ids).logits.log_softmax(-1)[0, :-1]
        own = torch.tensor(example.answer_mask[1:])
        terms.append((theirs.exp() * (theirs - ours)).sum(-1)[own])
    torch.testing.assert_close(found, torch.cat(terms).mean(), rtol=1e-4, atol=1e-6)


def test_a_held_arm_stays_nearer_to_the_base(tmp_path: Path) -> None:
    apart = {}
    for weight in (0.0, 20.0):
        fresh = tiny_base()
        prompts = [HeldPrompt([5, 6, 7, 8]), HeldPrompt([9, 10, 11])]
        held = answered_by_base(fresh.model, prompts, pad_token_id=0, new_tokens=4)
        train_arm(
            arm="a",
            base=fresh,
            config=peft_config("lora", LORA, base=fresh),
            train=examples(12),
            eval=examples(4, seed=1),
            settings=settings(hold_weight=weight, hold_tokens=4),
            seed=0,
            folder=tmp_path / f"{weight}",
            unanswerable=prompts,
        )
        checkpoint = sorted((tmp_path / f"{weight}").glob("checkpoint-*"))[-1]
        model = PeftModel.from_pretrained(tiny_base().model, checkpoint)
        apart[weight] = divergence_from_base(model, held, pad_token_id=0).item()
    assert 0 < apart[20.0] < 0.5 * apart[0.0]


def test_a_weight_without_prompts_is_refused(base: Base, tmp_path: Path) -> None:
    with pytest.raises(TinyEngramError, match=r"hold_weight=1\.0 needs prompts"):
        train_arm(
            arm="a",
            base=base,
            config=peft_config("lora", LORA, base=base),
            train=examples(4),
            eval=examples(2),
            settings=settings(hold_weight=1.0),
            seed=0,
            folder=tmp_path,
        )


@pytest.mark.parametrize(
    "config",
    [
        PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"),
        PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"),
    ],
    ids=["prompt", "prefix"],
)
def test_virtual_tokens_before_a_text_are_read_over(base: Base, config: Any) -> None:
    held = answered_by_base(base.model, [HeldPrompt([5, 6, 7, 8])], pad_token_id=0, new_tokens=4)
    model = get_peft_model(base.model, config).eval()
    ids = torch.tensor([held[0].example.input_ids])
    ours = model(ids, attention_mask=torch.ones_like(ids)).logits[0, -ids.shape[1] :].log_softmax(-1)
    with model.disable_adapter():
        theirs = model(ids).logits[0].log_softmax(-1)
    own = torch.tensor(held[0].example.answer_mask).roll(-1)
    found = divergence_from_base(model, held, pad_token_id=0)
    torch.testing.assert_close(found, (theirs.exp() * (theirs - ours)).sum(-1)[own].mean(), rtol=1e-4, atol=1e-6)
