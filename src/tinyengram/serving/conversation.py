"""A conversation with a model that may call tools, written as its training data are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from tinyengram.serving.generation import Ending, Generated, generate
from tinyengram.serving.model import Served, ServingError
from tinyengram.tasks.calls.fitting import misfit
from tinyengram.tasks.calls.reading import read_calls
from tinyengram.tasks.conversations import Call, Conversation, Turn
from tinyengram.tasks.formats import MalformedError
from tinyengram.tasks.formats.values import text_of
from tinyengram.tasks.rendering import Renderer, Template

OnText = Callable[[str], None]


@dataclass(frozen=True)
class Answer:
    """What a model said.

    Attributes:
        text: As generated, without what ends the turn.
        said: What is said beside the calls; the whole text where there are none.
        calls: That it makes, in whatever common format they are written.
        misfits: For each call why its arguments do not fit the tool's schema; None where they do.
        broken: Whether it is meant as a call and cannot be read.
        tokens: How many were generated.
        ending: Why it ended: at the ``end of turn``, at the greatest ``length``, or ``stopped``.
    """

    text: str
    said: str
    calls: tuple[Call, ...]
    misfits: tuple[str | None, ...]
    broken: bool
    tokens: int
    ending: Ending


class Talk:
    """A conversation with a model, kept over turns and rendered as the training data are.

    A message that cannot be answered (too long for the model, refused by its chat template) leaves the conversation as
    it was.

    Args:
        served: Who answers.
        template: See :class:`tinyengram.tasks.rendering.Renderer`.
        tools: Function descriptions as conversations hold them; see :func:`tinyengram.serving.load_tools`.
        system: Text of the system turn; empty for none.
        max_new_tokens: An answer is cut there, or where the model's context ends.

    Raises:
        TaskError: The tokenizer has no chat template, or one that cannot write a question and its answer.

    Example:
        >>> talk = Talk(load_served("adapter"), tools=load_tools("tools.json"))  # doctest: +SKIP
        >>> talk.say("Will it rain in Oslo?").calls  # doctest: +SKIP
        (Call(name='weather', arguments={'city': 'Oslo'}),)
        >>> talk.give_result("rain").text  # doctest: +SKIP
        'It will.'
    """

    def __init__(
        self,
        served: Served,
        *,
        template: Template = "tokenizer",
        tools: Sequence[dict[str, Any]] = (),
        system: str = "",
        max_new_tokens: int = 512,
    ) -> None:
        self.served = served
        self.renderer = Renderer(served.tokenizer, template=template)
        self._max_new_tokens = max_new_tokens
        self._tools, self._turns = tuple(tools), tuple[Turn, ...]()
        self.set_system(system)

    @property
    def conversation(self) -> Conversation:
        """What was said so far."""
        return self._with(self._turns)

    @property
    def unanswered(self) -> tuple[Call, ...]:
        """Calls of the last answer that have no result yet."""
        turns = self._turns
        last = next((at for at in reversed(range(len(turns))) if turns[at].role != "tool"), None)
        return () if last is None else turns[last].calls[len(turns) - 1 - last :]

    def set_system(self, text: str) -> None:
        """Replace the text of the system turn; what was said stays."""
        spoken = tuple(turn for turn in self._turns if turn.role != "system")
        system = (Turn("system", _checked(text, "the system text")),) if text else ()
        self._turns = (*system, *spoken)

    def reset(self) -> None:
        """Forget what was said; tools and the system text stay."""
        self._turns = tuple(turn for turn in self._turns if turn.role == "system")

    def say(self, text: str, *, on_text: OnText | None = None, stop: Callable[[], bool] | None = None) -> Answer:
        """The answer to a message of the user's.

        Args:
            text: The message.
            on_text, stop: See :func:`tinyengram.serving.generate`, as for the other answers.

        Raises:
            ServingError: The text is too long for the model, or cannot be written as UTF-8.
            TaskError: The chat template refuses it; the message is its own.
        """
        return self._answer((*self._turns, Turn("user", _checked(text, "the message"))), on_text, stop)

    def give_result(
        self, text: str, *, on_text: OnText | None = None, stop: Callable[[], bool] | None = None
    ) -> Answer | None:
        """Give the first call without a result its own; the answer once every call has one, else None.

        Raises:
            ServingError: No call waits for a result; or as for :meth:`say`.
            TaskError: As for :meth:`say`.
        """
        waiting = self.unanswered
        if not waiting:
            raise ServingError(
                "There is no call to give a result to: the last answer calls nothing, or its calls have their results. "
                "Say something first."
            )
        turns = (*self._turns, Turn("tool", _checked(text, "the result"), name=waiting[0].name))
        if len(waiting) > 1:
            self._turns = turns
            return None
        return self._answer(turns, on_text, stop)

    def again(self, *, on_text: OnText | None = None, stop: Callable[[], bool] | None = None) -> Answer:
        """Another answer in place of the last one, drawn as the model's own generation config says.

        Raises:
            ServingError: Nothing was answered yet.
        """
        return self._answer(self._before_the_answer(), on_text, stop, draw=True)

    def of_base(self, *, on_text: OnText | None = None, stop: Callable[[], bool] | None = None) -> Answer:
        """What the base alone would have answered instead of the last answer, the adapter switched off; not kept.

        Raises:
            ServingError: Nothing was answered yet, or there is no adapter.
        """
        if self.served.base is None:
            raise ServingError(f"{self.served.name} has no adapter: it is itself the base.")
        return self._generated(self._before_the_answer(), on_text, stop, of_base=True)

    # --- the model -----------------------------------------------------------------------------------------------

    def _with(self, turns: tuple[Turn, ...]) -> Conversation:
        return Conversation("The conversation", turns, self._tools)

    def _before_the_answer(self) -> tuple[Turn, ...]:
        answers = [at for at, turn in enumerate(self._turns) if turn.role == "assistant"]
        if not answers:
            raise ServingError("Nothing was answered yet. Say something first.")
        return self._turns[: answers[-1]]

    def _answer(
        self, turns: tuple[Turn, ...], on_text: OnText | None, stop: Callable[[], bool] | None, *, draw: bool = False
    ) -> Answer:
        """Generate an answer and keep it, as far as it came where it was stopped."""
        answer = self._generated(turns, on_text, stop, draw=draw)
        # Calls are kept as such, so that results find them and the template writes them as it would in training.
        self._turns = (*turns, Turn("assistant", answer.said, answer.calls))
        return answer

    def _generated(
        self,
        turns: tuple[Turn, ...],
        on_text: OnText | None,
        stop: Callable[[], bool] | None,
        *,
        draw: bool = False,
        of_base: bool = False,
    ) -> Answer:
        served = self.served
        prompt = self.renderer.prompt(self._with(turns))
        ids = served.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        room = self._max_new_tokens
        if served.context is not None:
            room = min(room, served.context - len(ids))
        if room < 1:
            raise ServingError(
                f"With this message the conversation has {len(ids)} tokens, but {served.name} reads at most "
                f"{served.context} with the answer. It was not sent: shorten it, or begin anew."
            )
        with served.model.disable_adapter() if of_base else nullcontext():
            generated = generate(
                served.model,
                served.tokenizer,
                ids,
                ends=self.renderer.end_ids,
                max_new_tokens=room,
                draw=draw,
                use_cache=served.use_cache,
                on_text=on_text,
                stop=stop,
            )
        return read_answer(generated, self._tools)


def read_answer(generated: Generated, tools: Sequence[dict[str, Any]]) -> Answer:
    """What was generated where ``tools`` are offered, with the calls in it."""
    read = read_calls(generated.text, offered={tool["name"] for tool in tools})
    calls = read.calls or ()
    return Answer(
        text=generated.text,
        said=read.text if calls else generated.text,
        calls=calls,
        misfits=tuple(misfit(call, tools) for call in calls),
        broken=read.calls is None,
        tokens=generated.tokens,
        ending=generated.ending,
    )


def _checked(text: str, what: str) -> str:
    try:
        return text_of(text, what)
    except MalformedError as error:
        raise ServingError(f"{error}.") from error
