"""What every arm of a study shares: base, examples, questions and texts, with an account of every row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tinyengram.study.plan import Study
from tinyengram.study.results import ChoiceSetAccount, DataAccount

if TYPE_CHECKING:
    from tinyengram.sources import Base
    from tinyengram.tasks.choice_sets import ChoiceSet
    from tinyengram.tasks.conversations import Conversation
    from tinyengram.tasks.questions import TruthfulQA
    from tinyengram.tasks.rendering import EncodedExample, Renderer
    from tinyengram.training import TrainingSettings


@dataclass
class Material:
    """What every arm shares.

    Attributes:
        base: The model that each arm starts from; never trained itself.
        renderer: How conversations are written for it.
        conversations, held_out_conversations: Those behind ``train`` and ``held_out``.
        unfitting: Requests that none of the offered tools fits.
        train, held_out: Examples in tokens.
        questions, choice_sets, texts: Probes.
        account: What became of every row.
    """

    base: Base
    renderer: Renderer
    conversations: list[Conversation]
    held_out_conversations: list[Conversation]
    unfitting: list[Conversation]
    train: list[EncodedExample]
    held_out: list[EncodedExample]
    questions: TruthfulQA
    choice_sets: dict[str, ChoiceSet]
    texts: list[str]
    account: DataAccount


def prepare(study: Study) -> Material:
    """Load what every arm shares and account for every row."""
    from tinyengram.tasks.chat_data import load_conversations, split
    from tinyengram.tasks.choice_sets import load_choice_set
    from tinyengram.tasks.general_text import load_texts
    from tinyengram.tasks.left_out import LeftOutCounts
    from tinyengram.tasks.questions import load_truthfulqa
    from tinyengram.tasks.rendering import Renderer, encode_all

    base, section = load_anew(study), study.data
    renderer = Renderer(base.tokenizer, template=section.template)
    if study.calls is not None:
        renderer.readable_format()  # Refused now, not when the first checkpoint is asked.
    data = load_conversations(
        section.name,
        format=section.format,
        learn=section.learn,
        max_bad_rows=section.max_bad_rows,
        revision=section.revision,
    )
    # Limits count examples that are used, so they are applied behind the limit on length.
    parts = split(data.conversations, seed=section.split_seed, eval_fraction=section.eval_fraction)
    encoded = {
        part: encode_all(conversations, renderer, max_length=section.max_length, on_too_long=section.on_too_long)
        for part, conversations in (("train", parts.train), ("eval", parts.held_out))
    }
    questions = load_truthfulqa(study.truthfulqa.name, limit=study.truthfulqa.limit)
    train = encoded["train"].examples[: section.train_limit]
    held_out = encoded["eval"].examples[: section.eval_limit]
    left_out = LeftOutCounts()
    for known in (data.left_out, *(part.left_out for part in encoded.values())):
        left_out.add_all(known)
    for limit, unused in (
        (f"beyond train_limit={section.train_limit}", encoded["train"].examples[len(train) :]),
        (f"beyond eval_limit={section.eval_limit}", encoded["eval"].examples[len(held_out) :]),
    ):
        for example in unused:
            left_out.add("turns", limit, example.id, len(example.turns))
            left_out.add("calls", limit, example.id, example.calls)
    choice_sets = {Path(one.name).stem: load_choice_set(one.name, limit=one.limit) for one in study.accuracy}
    texts = load_texts(study.drift.name, limit=study.drift.texts) if study.drift is not None else None
    account = DataAccount(
        train_examples=len(train),
        eval_examples=len(held_out),
        too_long=sum(part.too_long for part in encoded.values()),
        left_out=left_out.listed(),
        remarks=[*data.remarks, *([parts.remark] if parts.remark else [])],
        format=data.format,
        rendering=renderer.description,
        rows=data.rows,
        conversations=len(data.conversations),
        learnt_turns=sum(len(example.turns) for example in train),
        learnt_calls=sum(example.calls for example in train),
        held_out_turns=sum(len(example.turns) for example in held_out),
        held_out_calls=sum(example.calls for example in held_out),
        train_tokens=sum(len(example.input_ids) for example in train),
        data=data.provenance,
        questions=questions.provenance,
        question_label=questions.label,
        questions_asked=len(questions.questions),
        questions_dropped=questions.dropped,
        choice_sets={
            name: ChoiceSetAccount(
                label=one.label,
                asked=len(one.questions),
                chance=one.chance,
                source=one.provenance,
                dropped=one.dropped,
            )
            for name, one in choice_sets.items()
        },
        texts_label=None if texts is None else texts.label,
        texts=None if texts is None else texts.provenance,
    )
    return Material(
        base=base,
        renderer=renderer,
        conversations=_used(parts.train, train),
        held_out_conversations=_used(parts.held_out, held_out),
        unfitting=_unfitting(study, renderer) if study.calls is not None else [],
        train=train,
        held_out=held_out,
        questions=questions,
        choice_sets=choice_sets,
        texts=[] if texts is None else texts.texts,
        account=account,
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


def _unfitting(study: Study, renderer: Renderer) -> list[Conversation]:
    """BFCL's requests that none of the offered tools fits, evenly spaced among those of at most ``max_length``."""
    from tinyengram.tasks.chat_data import load_irrelevant
    from tinyengram.tasks.questions import evenly_spaced

    assert study.calls is not None
    if not study.calls.unwanted:
        return []
    fitting = [
        conversation
        for conversation in load_irrelevant()
        if len(renderer.tokenizer(renderer.prompt(conversation), add_special_tokens=False)["input_ids"])
        <= study.data.max_length
    ]
    return evenly_spaced(fitting, study.calls.unwanted)


def _used(conversations: Sequence[Conversation], examples: Sequence[EncodedExample]) -> list[Conversation]:
    """The conversations that stand behind encoded examples, with the turns that these hold as the learnt ones."""
    turns: dict[str, set[int]] = {}
    for example in examples:
        turns.setdefault(example.conversation, set()).update(example.turns)
    return [replace(one, learnt=tuple(sorted(turns[one.id]))) for one in conversations if one.id in turns]


def load_anew(study: Study) -> Base:
    """The base anew, on this process's accelerator if there is one."""
    from tinyengram.hardware import device
    from tinyengram.sources import load_base

    base = load_base(
        study.base.name,
        dtype=study.base.dtype,
        revision=study.base.revision,
        trust_remote_code=study.base.trust_remote_code,
    )
    base.model.to(device())
    return base


def unanswerable(study: Study, settings: TrainingSettings, material: Material) -> list[list[int]]:
    """Prompts on which an arm is held to the base, made from the training examples alone."""
    from tinyengram.training.holding import unanswerable_prompts

    if not settings.hold_weight:
        return []
    return unanswerable_prompts(
        material.conversations,
        material.renderer,
        max_length=study.data.max_length,
        limit=settings.hold_prompts,
        seed=study.data.split_seed,
    )
