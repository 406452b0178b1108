"""What every arm of a study shares: base, examples, questions and texts, with an account of every row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tinyengram.scoring.probes import Chats, Probes, Questions, load_questions
from tinyengram.study.results import ChoiceSetAccount, DataAccount
from tinyengram.training.examples import Examples, load_examples
from tinyengram.training.job import BaseSpec, DataSpec, load_fresh

if TYPE_CHECKING:
    from tinyengram.sources import Base


@dataclass
class Material:
    """What every arm shares.

    Attributes:
        base: The model that each arm starts from; never trained itself.
        examples: What is learnt and held out.
        questions: What is asked.
        account: What became of every row.
    """

    base: Base
    examples: Examples
    questions: Questions
    account: DataAccount


def prepare(base: BaseSpec, data: DataSpec, probes: Probes) -> Material:
    """Load what every arm shares and account for every row.

    Raises:
        TinyEngramError: Something cannot be had or used.
    """
    loaded = load_fresh(base)
    examples = load_examples(data, loaded.tokenizer)
    chats = Chats(examples.renderer, examples.held_out_conversations, data.max_length)
    questions = load_questions(probes, chats)
    account = _account(examples, questions)
    account.remarks += _fewer_calls(examples, probes)
    return Material(loaded, examples, questions, account)


def _fewer_calls(examples: Examples, probes: Probes) -> list[str]:
    """A sentence where fewer calls can be asked for than were wanted."""
    from tinyengram.scoring.calls import requests_for_calls

    if probes.calls is None:
        return []
    there = len(requests_for_calls(examples.held_out_conversations, examples.renderer.readable_format()))
    if not 0 < there < probes.calls.wanted:
        return []
    return [f"Of {probes.calls.wanted} wanted calls (calls.wanted) {there} are asked for: no more are held out."]


def _account(examples: Examples, questions: Questions) -> DataAccount:
    train, held_out, data, truthfulqa = examples.train, examples.held_out, examples.data, questions.truthfulqa
    return DataAccount(
        train_examples=len(train),
        eval_examples=len(held_out),
        too_long=examples.too_long,
        left_out=examples.left_out,
        remarks=examples.remarks,
        format=data.format,
        rendering=examples.renderer.description,
        rows=data.rows,
        conversations=len(data.conversations),
        learnt_turns=sum(len(example.turns) for example in train),
        learnt_calls=sum(example.calls for example in train),
        held_out_turns=sum(len(example.turns) for example in held_out),
        held_out_calls=sum(example.calls for example in held_out),
        train_tokens=sum(len(example.input_ids) for example in train),
        data=data.provenance,
        questions=truthfulqa.provenance,
        question_label=truthfulqa.label,
        questions_asked=len(truthfulqa.questions),
        questions_dropped=truthfulqa.dropped,
        choice_sets={
            name: ChoiceSetAccount(
                label=one.label,
                asked=len(one.questions),
                chance=one.chance,
                source=one.provenance,
                dropped=one.dropped,
            )
            for name, one in questions.choice_sets.items()
        },
        texts_label=None if questions.texts is None else questions.texts.label,
        texts=None if questions.texts is None else questions.texts.provenance,
    )


def data_in_words(account: DataAccount) -> list[str]:
    """What is learnt and what is not, a sentence each: said before anything is trained."""
    learnt = (
        f"Data: {account.rows} rows read as {account.format}; {account.learnt_turns} turns with {account.learnt_calls} "
        f"calls are learnt in {account.train_examples} texts, {account.held_out_turns} turns with "
        f"{account.held_out_calls} calls in {account.eval_examples} texts are held out."
    )
    left_out = [f"Not learnt: {one.count} {one.what}, {one.reason} (first: {one.first})." for one in account.left_out]
    return [learnt, *left_out, *account.remarks, f"Rendering: {account.rendering}."]
