"""Accuracy equals lm-evaluation-harness's definition of ``acc`` and ``acc_norm``, for a base and for any adapter."""

from __future__ import annotations

import pytest
import torch

from tests.scoring.models import adapted
from tinyengram.scoring.accuracy import AccuracyScores, score_accuracy
from tinyengram.scoring.choices import Prompt
from tinyengram.sources import load_base
from tinyengram.tasks.choice_sets import ChoiceQuestion, load_choice_set

QUESTIONS = [
    ChoiceQuestion(f"{index}", question, choices, gold)
    for index, (question, choices, gold) in enumerate(
        [
            ("Which one is hot?", ("fire", "ice in a glass of cold water", "snow"), 0),
            ("What is a café?", ("a place to drink", "ééééé", "a b c"), 1),
            ("How does one open a jar?", ("twist it ", "leave it alone for ever and a day"), 1),
            ("How many?", ("1", "22", "333", "4444", "55555"), 3),
            ("Why?", ("so", "because it is so, and has been so since the beginning"), 0),
            ("Who?", ("you and I and everybody else", "me"), 0),
        ]
    )
]


@pytest.fixture(params=["base", "lora", "engram"])
def model(request: pytest.FixtureRequest, base):
    return adapted(base, request.param)


def read_whole(model, tokenizer, context: str, continuation: str) -> float:
    """The definition: one prompt, one pass, the log-probabilities of the continuation's tokens summed."""
    skip = len(tokenizer.encode(context, add_special_tokens=False))
    ids = tokenizer.encode(context + continuation, add_special_tokens=False)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].double()
    return sum(logits[at - 1].log_softmax(-1)[ids[at]].item() for at in range(skip, len(ids)))


def test_scores_follow_the_harness(model, base) -> None:
    finished: list[int] = []
    scores = score_accuracy(model, base.tokenizer, QUESTIONS, on_done=finished.append)
    assert sum(finished) == len(QUESTIONS)
    accs, norms = [], []
    for question, row in zip(QUESTIONS, scores.rows, strict=True):
        context = f"Question: {question.question}\nAnswer:"
        lls = torch.tensor([read_whole(model, base.tokenizer, context, f" {choice}") for choice in question.choices])
        by_length = lls / torch.tensor([float(len(choice)) for choice in question.choices])
        accs.append(float(lls.argmax().item() == question.gold))
        norms.append(float(by_length.argmax().item() == question.gold))
        assert row.id == question.id
        assert row.log_likelihoods == pytest.approx(lls.tolist(), abs=1e-3)
        assert (row.correct, row.correct_norm) == (accs[-1], norms[-1])
        wrong = torch.cat([by_length[: question.gold], by_length[question.gold + 1 :]])
        assert row.margin == pytest.approx((by_length[question.gold] - wrong.max()).item(), abs=1e-3)
        assert (row.margin > 0) == bool(row.correct_norm)
    assert scores.acc == pytest.approx(sum(accs) / len(accs))
    assert scores.acc_norm == pytest.approx(sum(norms) / len(norms))
    assert scores.margin == pytest.approx(sum(row.margin for row in scores.rows) / len(QUESTIONS))


class Certain:
    """Stands in for the scoring of choices: each has the log-likelihood that it is given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *log_likelihoods: float) -> None:
        from tinyengram.scoring import accuracy
        from tinyengram.scoring.choices import ChoiceScores

        found = ChoiceScores("q", log_likelihoods, (1,) * len(log_likelihoods))
        monkeypatch.setattr(accuracy, "choice_log_likelihoods", lambda *_, **__: [found])


def test_length_is_in_characters_not_in_bytes_or_with_the_space(monkeypatch: pytest.MonkeyPatch) -> None:
    Certain(
        monkeypatch, -8.0, -7.0
    )  # Per character -2 and -2.33, per byte -2 and -1.17, with the space -1.6 and -1.75.
    (row,) = score_accuracy(None, None, [ChoiceQuestion("q", "?", ("four", "ééé"), 0)]).rows
    assert (row.correct, row.correct_norm) == (0, 1)
    assert row.margin == pytest.approx(-2 + 7 / 3)
    Certain(monkeypatch, -1.5, -4.0)  # Per character -1.5 and -1.33; with the space -0.75 and -1.
    (row,) = score_accuracy(None, None, [ChoiceQuestion("q", "?", ("a", "abc"), 1)]).rows
    assert (row.correct, row.correct_norm) == (0, 1)


def test_of_level_choices_the_first_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    for gold in (0, 1):
        Certain(monkeypatch, -2.0, -2.0, -9.0)
        (row,) = score_accuracy(None, None, [ChoiceQuestion("q", "?", ("ab", "cd", "ef"), gold)]).rows
        assert (row.correct, row.correct_norm, row.margin) == (1 - gold, 1 - gold, 0)


def test_asked_inside_a_chat(base) -> None:
    prompt = Prompt(lambda question: f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n", "")
    scores = score_accuracy(base.model, base.tokenizer, QUESTIONS[:2], prompt=prompt)
    for question, row in zip(QUESTIONS, scores.rows, strict=False):
        wanted = [
            read_whole(base.model, base.tokenizer, prompt.write(question.question).rstrip(), f"\n{choice}")
            for choice in question.choices
        ]
        assert row.log_likelihoods == pytest.approx(wanted, abs=1e-3)


def test_scores_survive_being_written(base) -> None:
    scores = score_accuracy(base.model, base.tokenizer, QUESTIONS)
    again = AccuracyScores.model_validate_json(scores.model_dump_json())
    assert again == scores
    assert again.acc_norm == scores.acc_norm


@pytest.mark.slow
def test_the_embedded_base_is_above_chance_on_both_sets() -> None:
    base = load_base("smollm2-135m-instruct")
    for name in ("arc-easy", "piqa"):
        data = load_choice_set(name, limit=40)
        assert score_accuracy(base.model, base.tokenizer, data.questions).acc_norm > data.chance + 0.1
