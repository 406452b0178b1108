"""Prompts to which a call is the wrong answer, the base's own answers to them, and the distance from the base there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, PrefixTuningConfig, PromptTuningConfig, get_peft_model

from tests.arms import LORA, examples, settings, tiny_base
from tinyengram.errors import TinyEngramError
from tinyengram.sources import Base, load_base
from tinyengram.tasks.conversations import Conversation, Turn
from tinyengram.tasks.rendering import Renderer
from tinyengram.training import peft_config, train_arm
from tinyengram.training.holding import answered_by_base, divergence_from_base, unanswerable_prompts


@pytest.fixture
def base() -> Base:
    return tiny_base()


def test_prompts_come_without_tools_and_with_anothers() -> None:
    base = load_base("tiny-random-llama")
    conversations = [
        Conversation(
            f"{i}",
            (Turn("system", f"tools of {i}"), Turn("user", f"request {i}"), Turn("assistant", "call")),
            tools=({"name": f"tool_{i}"},),
            learnt=(2,),
        )
        for i in range(5)
    ]
    renderer = Renderer(base.tokenizer, template="chatml")
    prompts = [base.tokenizer.decode(ids) for ids in unanswerable_prompts(conversations, renderer, limit=4)]
    assert len(prompts) == 4
    for at, prompt in enumerate(prompts):
        assert prompt.endswith("<|im_start|>assistant\n")
        assert ("tools of" in prompt) == (at % 2 == 1)
        if at % 2:
            tools, request = (prompt.split(word)[1][0] for word in ("tools of ", "request "))
            assert tools != request
            assert f"tool_{tools}" in prompt


def test_answers_are_the_bases_own_whatever_is_padded(base: Base) -> None:
    prompts = [[5, 6, 7], [8, 9, 10, 11, 12, 13]]
    examples = answered_by_base(base.model, prompts, pad_token_id=0, new_tokens=5)
    for prompt, example in zip(prompts, examples, strict=True):
        alone = base.model.generate(
            input_ids=torch.tensor([prompt]), max_new_tokens=5, do_sample=False, pad_token_id=0
        )[0].tolist()
        assert example.input_ids == alone
        assert [token for token, own in zip(example.input_ids, example.answer_mask, strict=True) if own] == (
            alone[len(prompt) :]
        )


def test_divergence_is_zero_at_the_base_and_the_definition_elsewhere(base: Base) -> None:
    examples = answered_by_base(base.model, [[5, 6, 7], [8, 9, 10, 11]], pad_token_id=0, new_tokens=4)
    model = get_peft_model(base.model, peft_config("lora", {"target_modules": ["q_proj"]}, base=base)).train()
    assert divergence_from_base(model, examples, pad_token_id=0).item() == 0
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    found = divergence_from_base(model, examples, pad_token_id=0)
    assert found.requires_grad
    assert model.training
    terms = []
    for example in examples:
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
        prompts = [[5, 6, 7, 8], [9, 10, 11]]
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
    held = answered_by_base(base.model, [[5, 6, 7, 8]], pad_token_id=0, new_tokens=4)
    model = get_peft_model(base.model, config).eval()
    ids = torch.tensor([held[0].input_ids])
    ours = model(ids, attention_mask=torch.ones_like(ids)).logits[0, -ids.shape[1] :].log_softmax(-1)
    with model.disable_adapter():
        theirs = model(ids).logits[0].log_softmax(-1)
    own = torch.tensor(held[0].answer_mask).roll(-1)
    found = divergence_from_base(model, held, pad_token_id=0)
    torch.testing.assert_close(found, (theirs.exp() * (theirs - ours)).sum(-1)[own].mean(), rtol=1e-4, atol=1e-6)
