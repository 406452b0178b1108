"""What every arm of a study shares: base, examples, questions and texts, with an account of every row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tinyengram.study.plan import Study
from tinyengram.study.results import ChoiceSetAccount, DataAccount

if TYPE_CHECKING:
    from tinyengram.sources import Base
    from tinyengram.tasks.chat import EncodedExample
    from tinyengram.tasks.choice_sets import ChoiceSet
    from tinyengram.tasks.questions import TruthfulQA
    from tinyengram.tasks.tool_calls import ToolCall
    from tinyengram.training import TrainingSettings


@dataclass
class Material:
    """What every arm shares."""

    base: Base
    calls: list[ToolCall]
    held_out_calls: list[ToolCall]
    unfitting_calls: list[ToolCall]
    train: list[EncodedExample]
    held_out: list[EncodedExample]
    questions: TruthfulQA
    choice_sets: dict[str, ChoiceSet]
    texts: list[str]
    account: DataAccount


def prepare(study: Study) -> Material:
    """Load what every arm shares and account for every row."""
    from tinyengram.tasks.chat import encode_all
    from tinyengram.tasks.choice_sets import load_choice_set
    from tinyengram.tasks.general_text import load_texts
    from tinyengram.tasks.questions import load_truthfulqa
    from tinyengram.tasks.tool_calls import load_tool_calls

    base = load_anew(study)
    data = load_tool_calls(
        study.data.name,
        format=study.data.format,
        max_bad_rows=study.data.max_bad_rows,
        split_seed=study.data.split_seed,
        eval_fraction=study.data.eval_fraction,
        # Limits count examples that are used, so they are applied behind the limit on length.
        eval_limit=None,
        train_limit=None,
        revision=study.data.revision,
    )
    encoded = {
        part: encode_all(
            calls,
            base.tokenizer,
            template=study.data.template,
            max_length=study.data.max_length,
            on_too_long=study.data.on_too_long,
        )
        for part, calls in (("train", data.train), ("eval", data.eval))
    }
    questions = load_truthfulqa(study.truthfulqa.name, limit=study.truthfulqa.limit)
    train = encoded["train"].examples[: study.data.train_limit]
    held_out = encoded["eval"].examples[: study.data.eval_limit]
    choice_sets = {Path(one.name).stem: load_choice_set(one.name, limit=one.limit) for one in study.accuracy}
    texts = load_texts(study.drift.name, limit=study.drift.texts) if study.drift is not None else None
    account = DataAccount(
        train_examples=len(train),
        eval_examples=len(held_out),
        too_long=sum(part.too_long for part in encoded.values()),
        skipped=[row.model_dump() for row in data.skipped],
        dropped=data.dropped,
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
    unfitting = _unfitting_calls(study, base) if study.calls is not None else []
    return Material(
        base=base,
        calls=_used(data.train, train),
        held_out_calls=_used(data.eval, held_out),
        unfitting_calls=unfitting,
        train=train,
        held_out=held_out,
        questions=questions,
        choice_sets=choice_sets,
        texts=[] if texts is None else texts.texts,
        account=account,
    )


def _unfitting_calls(study: Study, base: Base) -> list[ToolCall]:
    """BFCL's requests that none of the offered tools fits, evenly spaced among those of at most ``max_length``."""
    from tinyengram.tasks.chat import chat_text
    from tinyengram.tasks.questions import evenly_spaced
    from tinyengram.tasks.tool_calls import load_irrelevant

    assert study.calls is not None
    if not study.calls.unwanted:
        return []
    fitting = [
        call
        for call in load_irrelevant()
        if len(base.tokenizer(chat_text(call.instruction, call.input, base.tokenizer))["input_ids"])
        <= study.data.max_length
    ]
    return evenly_spaced(fitting, study.calls.unwanted)


def _used(calls: Sequence[ToolCall], examples: Sequence[EncodedExample]) -> list[ToolCall]:
    """The calls that stand behind encoded examples."""
    ids = {example.id for example in examples}
    return [call for call in calls if call.id in ids]


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
    from tinyengram.holding import unanswerable_prompts

    if not settings.hold_weight:
        return []
    return unanswerable_prompts(
        material.calls,
        material.base.tokenizer,
        template=study.data.template,
        max_length=study.data.max_length,
        limit=settings.hold_prompts,
        seed=study.data.split_seed,
    )
