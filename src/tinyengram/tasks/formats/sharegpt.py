"""``sharegpt``: turns of ``from`` and ``value`` with calls as turns of their own, as LLaMA-Factory writes them.

``conversations`` of ``human``, ``gpt``, ``function_call``, ``observation`` and ``system``; ``function_call`` holds JSON
text of one call or a list of parallel calls; ``tools`` is JSON text, ``system`` may stand beside the turns. A
``function_call`` right after a ``gpt`` turn or another call belongs to the same turn: nobody spoke between.

Source: https://github.com/hiyouga/LLaMA-Factory/tree/main/data
"""

from __future__ import annotations

from tinyengram.sources import Row
from tinyengram.tasks.conversations import Call, Conversation
from tinyengram.tasks.formats.builder import ConversationBuilder
from tinyengram.tasks.formats.messages import Message, messages_of
from tinyengram.tasks.formats.tools import offered_tools, read_calls
from tinyengram.tasks.formats.values import MalformedError, field, json_text, text_of

CALLING = "function_call"


def read(row: Row) -> Conversation:
    """The conversation in a row.

    Raises:
        MalformedError: The row has another shape.
    """
    chat = ConversationBuilder(row.location, offered_tools(row.values.get("tools")))
    chat.system(field(row.values, "system", ""), "'system'")
    messages = list(messages_of(row.values))
    said: list[str] = []
    calls: list[Call] = []
    learnt = True
    for index, message in enumerate(messages):
        if message.role == CALLING or message.speaker == "assistant":
            learnt = learnt and message.learnt
            if message.role == CALLING:
                calls += _calls(message)
            else:
                said.append(_words(message))
            if index + 1 == len(messages) or messages[index + 1].role != CALLING:
                chat.assistant("\n".join(said), calls, what=message.what, learnt=learnt)
                said, calls, learnt = [], [], True
        elif message.speaker == "tool":
            chat.results(message.text, message.what, alone=is_only_result(messages, index))
        elif message.speaker == "system":
            chat.system(message.text, message.what)
        else:
            chat.user(message.text, message.what)
    return chat.conversation()


def _calls(message: Message) -> list[Call]:
    what = f"the call in {message.what}"
    calls = read_calls(json_text(text_of(message.content, what), what), what)
    if not calls:
        raise MalformedError(f"{what} is an empty list; write a gpt turn where nothing is called")
    return calls


def _words(message: Message) -> str:
    if "<tool_call>" in message.text and "</tool_call>" in message.text:
        raise MalformedError(f"{message.what} writes <tool_call> into its text; give format: hermes to read it")
    return message.text


def is_only_result(messages: list[Message], index: int) -> bool:
    """Whether the messages before and after are no results, so that this one stands for every call that waits."""
    beside = (messages[near] for near in (index - 1, index + 1) if 0 <= near < len(messages))
    return not any(other.role != CALLING and other.speaker == "tool" for other in beside)
