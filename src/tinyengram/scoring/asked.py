"""What was asked, kept beside the scores: one file for each set of questions and way of asking, whatever model answers.

Scores alone cannot be read: they name a question by its id, and of an answer they say only what became of it.
``asked/<kind>-<key>.json`` holds the rest, so that a run folder can be shown without the data, the tokenizer or the
embedded sets. ``kind`` and ``key`` are those of ``scores/<kind>-<key>-<adapter>.json``; rows stand in the same order.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel

from tinyengram.files import write_atomically
from tinyengram.tasks.conversations import Role

if TYPE_CHECKING:
    from tinyengram.scoring.calls import CallRequest
    from tinyengram.scoring.choices import Prompt
    from tinyengram.tasks.choice_sets import ChoiceQuestion
    from tinyengram.tasks.questions import TruthfulQuestion

FOLDER = "asked"


class AskedQuestion(BaseModel):
    """A question with choices.

    Attributes:
        id: As in the scores.
        question: Its text.
        prompt: What is read before a choice, exactly as it was written.
        lead: What joins a choice to it.
        choices: Those that share the probability: of TruthfulQA those of MC2, of a choice set all.
        right: Of each of them, whether it is right.
        mc1_choices: Of TruthfulQA: the choices of MC1, the first of which is right.
    """

    id: str
    question: str
    prompt: str
    lead: str
    choices: list[str]
    right: list[bool]
    mc1_choices: list[str] | None = None


class AskedQuestions(BaseModel):
    """Questions of TruthfulQA or of a choice set, asked in one way."""

    schema_version: Literal[1] = 1
    questions: list[AskedQuestion]


class AskedTexts(BaseModel):
    """General texts, each read up to ``max_tokens`` tokens."""

    schema_version: Literal[1] = 1
    max_tokens: int
    texts: list[str]


class AskedCall(BaseModel):
    """A function's name with its arguments."""

    name: str
    arguments: dict[str, Any]


class AskedMessage(BaseModel):
    """One message: who speaks, what is said, and of the assistant what it calls beside that.

    ``name`` is that of the function whose result a ``tool`` message is, where known.
    """

    role: Role
    text: str
    calls: list[AskedCall] = []
    name: str | None = None


class AskedRequest(BaseModel):
    """A place in a conversation where an answer is generated.

    Attributes:
        id: As in the scores.
        turn: Index of the turn in its conversation; None: after the last.
        messages: What is said before.
        tools: Descriptions of the functions that are offered.
        expected: The calls that the data make there; none where the right thing is not to call.
        allowed: BFCL's possible answers, which count instead: for each call ``{function: {argument: [allowed, …]}}``.
        prompt: The text that is continued, exactly as it was written.
    """

    id: str
    turn: int | None
    messages: list[AskedMessage]
    tools: list[dict[str, Any]]
    expected: list[AskedCall]
    allowed: list[dict[str, Any]] = []
    prompt: str


class AskedCalls(BaseModel):
    """Requests that want a call, and requests that none of the offered tools fits."""

    schema_version: Literal[1] = 1
    wanted: list[AskedRequest]
    unwanted: list[AskedRequest]


def asked_file(scores_file: str) -> str:
    """Where it is kept what a file of scores answers, both relative to the run folder, with ``/`` between folders."""
    of_kind_and_key, _, _ = PurePosixPath(scores_file.replace("\\", "/")).stem.rpartition("-")
    return f"{FOLDER}/{of_kind_and_key}.json"


def keep_asked(asked: BaseModel, file: Path) -> None:
    """Write what was asked, whole or not at all; half a surrogate pair, which no file may hold, becomes ``?``."""
    text = json.dumps(asked.model_dump(), ensure_ascii=False, indent=1)
    write_atomically(file, text.encode("utf-8", errors="replace"))


def truthful_questions(questions: Sequence[TruthfulQuestion], prompt: Prompt) -> AskedQuestions:
    """TruthfulQA's questions, asked in one way."""
    return AskedQuestions(
        questions=[
            _question(one, prompt, one.mc2_choices, one.mc2_labels, mc1_choices=list(one.mc1_choices))
            for one in questions
        ]
    )


def choice_questions(questions: Sequence[ChoiceQuestion], prompt: Prompt) -> AskedQuestions:
    """A choice set's questions, asked in one way."""
    return AskedQuestions(
        questions=[
            _question(one, prompt, one.choices, [index == one.gold for index in range(len(one.choices))])
            for one in questions
        ]
    )


def _question(
    one: TruthfulQuestion | ChoiceQuestion,
    prompt: Prompt,
    choices: Sequence[str],
    right: Sequence[bool],
    mc1_choices: list[str] | None = None,
) -> AskedQuestion:
    return AskedQuestion(
        id=one.id,
        question=one.question,
        prompt=prompt.write(one.question),
        lead=prompt.lead,
        choices=list(choices),
        right=list(right),
        mc1_choices=mc1_choices,
    )


def call_requests(wanted: Sequence[CallRequest], unwanted: Sequence[CallRequest], prompts: Sequence[str]) -> AskedCalls:
    """Requests, with the prompts that were written of them: of the wanted ones first."""
    found = [_request(one, prompt) for one, prompt in zip((*wanted, *unwanted), prompts, strict=True)]
    return AskedCalls(wanted=found[: len(wanted)], unwanted=found[len(wanted) :])


def _request(request: CallRequest, prompt: str) -> AskedRequest:
    conversation = request.conversation
    return AskedRequest(
        id=conversation.id,
        turn=request.turn,
        messages=[
            AskedMessage(
                role=turn.role,
                text=turn.text,
                calls=[AskedCall(name=call.name, arguments=call.arguments) for call in turn.calls],
                name=turn.name,
            )
            for turn in conversation.turns[: request.turn]
        ],
        tools=list(conversation.tools),
        expected=[AskedCall(name=call.name, arguments=call.arguments) for call in request.wanted],
        allowed=list(conversation.ground_truth),
        prompt=prompt,
    )
