"""Scores with shared prefixes equal those of reading every prompt whole, for a base and for any adapter."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from tests.scoring.models import adapted
from tinyengram.scoring.choices import ChoiceRequest, choice_log_likelihoods
from tinyengram.scoring.truthfulqa import (
    PRIMER,
    centred_shift_by_question,
    mean_absolute_shift,
    plain_prompt,
    score_truthfulqa,
    shift_by_question,
)
from tinyengram.tasks.questions import TruthfulQuestion

REQUESTS = [
    ChoiceRequest("a", "Shared start. One?", (" yes", " no", " x", " yes")),
    ChoiceRequest("b", "Shared start. Another one?", (" a much longer choice", " b")),
    ChoiceRequest("c", "Shared start. Two?? ", ("no space before", "z")),
    ChoiceRequest("d", "Shared start. Six?", (" fine",)),
]


@pytest.fixture(params=["base", "lora", "engram", "gpt2"])
def model(request: pytest.FixtureRequest, base):
    if request.param == "gpt2":
        torch.manual_seed(0)
        config = GPT2Config(vocab_size=len(base.tokenizer), n_embd=32, n_layer=2, n_head=2, n_positions=2048)
        return GPT2LMHeadModel(config).eval()
    return adapted(base, request.param)


def read_whole(model, tokenizer, context: str, choice: str) -> float:
    """The definition: one prompt, one pass, the log-probabilities of the choice's tokens summed."""
    text = context.rstrip()
    skip = len(tokenizer.encode(text, add_special_tokens=False))
    ids = tokenizer.encode(context + choice, add_special_tokens=False)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].double()
    return sum(logits[at - 1].log_softmax(-1)[ids[at]].item() for at in range(skip, len(ids)))


@pytest.mark.parametrize("max_batch_tokens", [1, 100, 8192])
def test_equal_to_reading_every_prompt_whole(model, base, max_batch_tokens) -> None:
    finished: list[int] = []
    found = choice_log_likelihoods(
        model, base.tokenizer, REQUESTS, max_batch_tokens=max_batch_tokens, on_done=finished.append
    )
    assert sum(finished) == len(REQUESTS)
    assert [scores.id for scores in found] == ["a", "b", "c", "d"]
    for request, scores in zip(REQUESTS, found, strict=True):
        wanted = [read_whole(model, base.tokenizer, request.context, choice) for choice in request.choices]
        assert scores.log_likelihoods == pytest.approx(wanted, abs=1e-3)
        assert scores.n_tokens[0] == len(
            base.tokenizer.encode(request.context.rstrip() + " " * request.context.endswith(" ") + request.choices[0])
        ) - len(base.tokenizer.encode(request.context.rstrip()))


def test_a_single_request_and_none(base) -> None:
    one = choice_log_likelihoods(base.model, base.tokenizer, REQUESTS[:1])
    assert one[0].log_likelihoods[0] == pytest.approx(
        read_whole(base.model, base.tokenizer, *("Shared start. One?", " yes")), abs=1e-3
    )
    assert choice_log_likelihoods(base.model, base.tokenizer, []) == []


def test_contexts_that_share_nothing(base) -> None:
    requests = [ChoiceRequest("a", "Abc", (" d",)), ChoiceRequest("b", "Xyz", (" d",))]
    for request, scores in zip(requests, choice_log_likelihoods(base.model, base.tokenizer, requests), strict=True):
        wanted = read_whole(base.model, base.tokenizer, request.context, " d")
        assert scores.log_likelihoods[0] == pytest.approx(wanted, abs=1e-3)


def test_a_choice_without_a_token_is_refused(base) -> None:
    with pytest.raises(ValueError, match="has no token of its own"):
        choice_log_likelihoods(base.model, base.tokenizer, [ChoiceRequest("a", "Abc", ("",))])


def test_every_token_is_read_once(base, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason for this module: the work is the shared prefix, the rests and the choices, not their product."""
    read = 0
    forward = base.model.forward

    def counting(*args, **kwargs):
        nonlocal read
        read += kwargs["input_ids"].numel()
        return forward(*args, **kwargs)

    monkeypatch.setattr(base.model, "forward", counting)
    counting.__signature__ = __import__("inspect").signature(forward)  # type: ignore[attr-defined]
    questions = [f"What of {word}?" for word in ("tea", "ale", "rum", "gin")]
    requests = [ChoiceRequest(text, plain_prompt(text), (" aaa", " bbb", " aaa")) for text in questions]
    choice_log_likelihoods(base.model, base.tokenizer, requests)
    whole = len(base.tokenizer.encode(plain_prompt(questions[0])))
    assert read < whole + 4 * (len(questions[0]) + 6) + 4 * 2 * 4
    assert whole < read


class TestTruthfulQA:
    QUESTIONS = (
        TruthfulQuestion("1", "Who?", ("me", "you", "they"), ("me", "I", "you", "they"), (True, True, False, False)),
        TruthfulQuestion("2", "Why not?", ("so", "no"), ("so", "no"), (True, False)),
    )

    def test_scores_follow_the_definition(self, model, base) -> None:
        scores = score_truthfulqa(model, base.tokenizer, self.QUESTIONS)
        for question, row in zip(self.QUESTIONS, scores.rows, strict=True):
            context = f"{PRIMER}\n\nQ: {question.question}\nA:"
            single = {c: read_whole(model, base.tokenizer, context, f" {c}") for c in question.mc2_choices}
            best = max(question.mc1_choices, key=single.__getitem__)
            assert row.mc1 == float(best == question.mc1_choices[0])
            mass = {choice: math.exp(value) for choice, value in single.items()}
            true = sum(mass[c] for c, label in zip(question.mc2_choices, question.mc2_labels, strict=True) if label)
            assert row.mc2 == pytest.approx(true / sum(mass.values()), abs=1e-3)
        assert scores.mc1 == sum(row.mc1 for row in scores.rows) / 2
        assert scores.mc2 == pytest.approx(sum(row.mc2 for row in scores.rows) / 2)

    def test_shift_is_the_mean_move_of_a_choice(self, base) -> None:
        scores = score_truthfulqa(base.model, base.tokenizer, self.QUESTIONS)
        moved = scores.model_copy(deep=True)
        for sign, row in zip((1, -1), moved.rows, strict=True):
            row.log_likelihoods = {choice: value + sign * 0.5 for choice, value in row.log_likelihoods.items()}
        assert mean_absolute_shift(moved, scores) == pytest.approx(0.5)
        assert mean_absolute_shift(scores, scores) == 0
        first = moved.rows[0].log_likelihoods
        first[next(iter(first))] += len(first)
        assert shift_by_question(moved, scores) == pytest.approx([1.5, 0.5])

    def test_centred_it_leaves_out_what_all_choices_moved_by(self, base) -> None:
        scores = score_truthfulqa(base.model, base.tokenizer, self.QUESTIONS)
        moved = scores.model_copy(deep=True)
        for row in moved.rows:
            row.log_likelihoods = {choice: value - 17.5 for choice, value in row.log_likelihoods.items()}
        assert centred_shift_by_question(moved, scores) == pytest.approx([0, 0], abs=1e-9)
        first = moved.rows[0].log_likelihoods  # Of four choices, one by 4 more: the mean by 1.
        first[next(iter(first))] += 4
        assert len(first) == 4
        assert centred_shift_by_question(moved, scores) == pytest.approx([(3 + 1 + 1 + 1) / 4, 0], abs=1e-9)
        assert shift_by_question(moved, scores) == pytest.approx([(13.5 + 3 * 17.5) / 4, 17.5])

    def test_the_primer_has_six_questions(self) -> None:
        assert PRIMER.startswith("Q: What is human life expectancy in the United States?")
        assert PRIMER.count("Q: ") == PRIMER.count("A: ") == 6
