"""The playground: adapters and their base answer one message side by side, in a browser on this machine."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from tinyengram.errors import TinyEngramError
from tinyengram.serving.conversation import Talk
from tinyengram.serving.explaining import Step, explain_answer
from tinyengram.serving.model import ServingError
from tinyengram.serving.speakers import Speaker
from tinyengram.tasks.formats import MalformedError
from tinyengram.tasks.formats.tools import offered_tools
from tinyengram.tasks.rendering import Template

LABELS = ("from 0.01 nats", "from 0.1 nats", "from 1 nat")
"""What coloured tokens are called, by how far the memory moved them; the limits of ``tinyengram explain``."""

Spans = list[tuple[str, str | None]]
"""Pieces of an answer, each with its label or None."""


class Playground:
    """Answers a message with every speaker, each time anew: nothing is kept.

    Args:
        speakers: From :func:`tinyengram.serving.speakers.load_speakers`; the base is the last.
        template: See :class:`tinyengram.tasks.rendering.Renderer`.
        strength_of: How far a step was moved, 0 to 3.
    """

    def __init__(
        self, speakers: Mapping[str, Speaker], *, template: Template, strength_of: Callable[[Step], int]
    ) -> None:
        self.speakers = list(speakers.values())
        self._template, self._strength_of = template, strength_of

    def answers(self, message: str, tools: str, memory_is_on: bool, max_new_tokens: int) -> list[Spans]:
        """What each speaker says, in their order.

        Args:
            message: The user's.
            tools: A JSON list of functions; empty for none.
            memory_is_on: Whether adapters are switched on.
            max_new_tokens: An answer is cut there.

        Raises:
            TinyEngramError: The tools cannot be read, or the message cannot be answered.
        """
        if not message.strip():
            raise ServingError("The message is empty. Write one.")
        offered = read_tools(tools)
        return [self._answer(speaker, message, offered, memory_is_on, max_new_tokens) for speaker in self.speakers]

    def _answer(
        self, speaker: Speaker, message: str, tools: Sequence[dict[str, Any]], is_on: bool, longest: int
    ) -> Spans:
        talk = Talk(speaker.served, template=self._template, tools=tools, max_new_tokens=longest)
        on = is_on and speaker.adapter is not None
        with self._switched(speaker, on):
            if on and speaker.served.method == "engram":
                explained = explain_answer(talk, message, max_new_tokens=longest)
                return [(step.text, self._label(step)) for step in explained.steps if step.is_answer]
            return [(talk.say(message).text, None)]

    def _label(self, step: Step) -> str | None:
        strength = self._strength_of(step)
        return LABELS[strength - 1] if strength else None

    def _switched(self, speaker: Speaker, on: bool) -> AbstractContextManager[Any]:
        """Have the speaker's own adapter read alone, or none."""
        adapted = self.speakers[0].served.model  # All speak through one model.
        if speaker.adapter is not None:
            adapted.set_adapter(speaker.adapter)
        return nullcontext() if on or self.speakers[0].adapter is None else adapted.disable_adapter()


def read_tools(text: str) -> tuple[dict[str, Any], ...]:
    """Tools as they are typed: a JSON list of functions, or nothing.

    Raises:
        ServingError: It is no such list.
    """
    if not text.strip():
        return ()
    try:
        json.loads(text)
        return tuple(offered_tools(text, "The tools"))
    except (MalformedError, ValueError, RecursionError) as error:
        raise ServingError(f"The tools are no JSON list of functions: {error}.") from error


def make_page(playground: Playground, tools: str) -> Any:
    """The page, a ``gradio.Blocks``; ``tools`` is what stands in their field at first."""
    import gradio

    def reply(message: str, typed: str, is_on: bool, longest: float) -> list[Spans]:
        try:
            return playground.answers(message, typed, is_on, int(longest))
        except TinyEngramError as error:
            raise gradio.Error(str(error), print_exception=False) from error

    colours = dict(zip(LABELS, ("#d5e6ff", "#93c0ff", "#ffb26b"), strict=True))
    with gradio.Blocks(title="tinyengram: play", analytics_enabled=False) as page:
        gradio.Markdown("# What does it say, and what would its base?\nEach message begins anew.")
        message = gradio.Textbox(label="Message", lines=2, autofocus=True)
        with gradio.Row():
            is_on = gradio.Checkbox(value=True, label="Adapters on")
            longest = gradio.Slider(8, 256, value=64, step=8, label="Tokens at most")
            ask = gradio.Button("Ask", variant="primary")
        with gradio.Accordion("Tools, a JSON list of functions", open=bool(tools)):
            typed = gradio.Code(value=tools, language="json", show_label=False, lines=6)
        with gradio.Row():
            said = [
                gradio.HighlightedText(
                    label=speaker.id, color_map=colours, show_legend=speaker.served.method == "engram"
                )
                for speaker in playground.speakers
            ]
        for event in (ask.click, message.submit):
            event(reply, [message, typed, is_on, longest], said, concurrency_limit=1, api_name=False)
    return page
