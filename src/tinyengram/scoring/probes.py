"""What is asked of every model that is compared: the questions, and how they are put."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

if TYPE_CHECKING:
    from tinyengram.tasks.choice_sets import ChoiceSet
    from tinyengram.tasks.conversations import Conversation
    from tinyengram.tasks.general_text import GeneralTexts
    from tinyengram.tasks.questions import TruthfulQA
    from tinyengram.tasks.rendering import Renderer

PromptName = Literal["plain", "chat", "chat with tools"]
"""How a probe is put: its own plain prompt, or the training data's chat template without or with a tool offered."""

# Asked where nothing is said: enough to see a change of five points, and minutes instead of an hour on a small base.
_BY_DEFAULT = 100


class _Probe(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TruthfulQAProbe(_Probe):
    """Which questions show what was forgotten, and how they are put. ``limit`` None: all of them."""

    name: str = "truthfulqa-subset"
    limit: int | None = Field(default=None, ge=1)
    prompts: tuple[PromptName, ...] = Field(default=("plain", "chat", "chat with tools"), min_length=1)


class ChoiceSetProbe(_Probe):
    """A multiple-choice set that is asked as TruthfulQA is; see ``tasks.choice_sets.load_choice_set``."""

    name: str
    limit: int | None = Field(default=None, ge=1)


class DriftProbe(_Probe):
    """How many general texts are read, and up to how many tokens, to see how far predictions moved from the base's."""

    name: str = "plot-summaries"
    texts: int = Field(default=20, ge=1)
    max_tokens: int = Field(default=256, ge=2)


class CallsProbe(_Probe):
    """How many generated calls are judged: held-out requests, and requests that none of the offered tools fits."""

    wanted: int = Field(default=40, ge=1)
    unwanted: int = Field(default=20, ge=0)
    max_new_tokens: int = Field(default=128, ge=1)
    batch_size: int = Field(default=8, ge=1)


class Probes(_Probe):
    """All that is asked of a model; ``accuracy``, ``drift`` and ``calls`` may be left out."""

    truthfulqa: TruthfulQAProbe = TruthfulQAProbe(limit=_BY_DEFAULT)
    accuracy: tuple[ChoiceSetProbe, ...] = ()
    drift: DriftProbe | None = None
    calls: CallsProbe | None = None

    @field_validator("accuracy")
    @classmethod
    def _distinct_sets(cls, sets: tuple[ChoiceSetProbe, ...]) -> tuple[ChoiceSetProbe, ...]:
        names = [one.name for one in sets]
        if len(set(names)) < len(names):
            raise ValueError(f"{names} names one set more than once")
        return sets


@dataclass
class Chats:
    """What the chat prompts and the requests for calls are made of.

    Attributes:
        renderer: Writes them as they were trained.
        held_out: Conversations that were not trained; their learnt turns are what is asked for.
        max_length: Longer prompts are not asked.
    """

    renderer: Renderer
    held_out: list[Conversation]
    max_length: int


@dataclass
class Questions:
    """The probes' questions and texts, loaded.

    Attributes:
        truthfulqa, choice_sets, texts: What is asked; sets by the name that results give them.
        unfitting: Requests that none of the offered tools fits.
        chats: What chat prompts and requests are made of.
    """

    truthfulqa: TruthfulQA
    choice_sets: dict[str, ChoiceSet]
    texts: GeneralTexts | None
    unfitting: list[Conversation]
    chats: Chats


def load_questions(probes: Probes, chats: Chats) -> Questions:
    """Load what is asked.

    Raises:
        TinyEngramError: A set cannot be had or used, or nothing reads the calls that the chats' template writes.
    """
    from tinyengram.tasks.choice_sets import load_choice_set
    from tinyengram.tasks.general_text import load_texts
    from tinyengram.tasks.questions import load_truthfulqa

    if probes.calls is not None:
        chats.renderer.readable_format()  # Refused now, not when the first checkpoint is asked.
    return Questions(
        truthfulqa=load_truthfulqa(probes.truthfulqa.name, limit=probes.truthfulqa.limit),
        choice_sets={Path(one.name).stem: load_choice_set(one.name, limit=one.limit) for one in probes.accuracy},
        texts=None if probes.drift is None else load_texts(probes.drift.name, limit=probes.drift.texts),
        unfitting=_unfitting(probes, chats),
        chats=chats,
    )


def _unfitting(probes: Probes, chats: Chats) -> list[Conversation]:
    """BFCL's requests that none of the offered tools fits, evenly spaced among those that are short enough."""
    from tinyengram.tasks.chat_data import load_irrelevant
    from tinyengram.tasks.questions import evenly_spaced

    if probes.calls is None or not probes.calls.unwanted:
        return []
    renderer = chats.renderer
    fitting = [
        conversation
        for conversation in load_irrelevant()
        if len(renderer.tokenizer(renderer.prompt(conversation), add_special_tokens=False)["input_ids"])
        <= chats.max_length
    ]
    return evenly_spaced(fitting, probes.calls.unwanted)
