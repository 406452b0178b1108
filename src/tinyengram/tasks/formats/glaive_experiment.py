"""``glaive-experiment``: the original experiment's filter of Glaive's rows, kept for its preset.

One row gives at most one example, all of it text: the system prompt with its schema, the user turn right before the
first turn that calls, and that turn as Glaive writes it, in its own quotes. What the row says afterwards is left out,
and counted. ``glaive`` reads whole conversations instead.
"""

from __future__ import annotations

from tinyengram.sources import Row
from tinyengram.tasks.conversations import Conversation, Turn
from tinyengram.tasks.formats.values import LeftOutError, field

_CALL_MARKERS = ("<functioncall>", "<tool_code>")


def read(row: Row) -> Conversation:
    """The first calling turn of a row.

    Raises:
        MalformedError: The row has another shape.
        LeftOutError: The filter does not keep the row.
    """
    system, chat = field(row.values, "system"), field(row.values, "chat")
    if "no access to external functions" in system:
        raise LeftOutError("no functions offered")
    turns = chat.split("ASSISTANT:")
    calling = (index for index in range(1, len(turns)) if any(marker in turns[index] for marker in _CALL_MARKERS))
    first = next(calling, None)
    if first is None:
        raise LeftOutError("no assistant turn calls a function")
    before, turn = turns[first - 1], turns[first]
    output = turn.split("USER:")[0].split("FUNCTION RESPONSE")[0].strip().removesuffix("<|endoftext|>").strip()
    if "USER:" not in before:
        raise LeftOutError("no user turn right before the call")
    if not any(marker in output for marker in (*_CALL_MARKERS, "{")):
        raise LeftOutError("the cut turn holds no call")
    asked = (
        Turn("user", before.rpartition("USER:")[2].strip()),
        Turn("assistant", output, calls_in_text=calls_in(output)),
    )
    instruction = (Turn("system", system.strip()),) if system.strip() else ()
    return Conversation(row.location, (*instruction, *asked), learnt=(len(instruction) + 1,))


def calls_in(text: str) -> int:
    """Calls that a text of Glaive's holds."""
    return sum(text.count(marker) for marker in _CALL_MARKERS)


def passed_over(row: Row) -> tuple[int, int]:
    """Assistant turns, and calls, of a row that :func:`read` keeps, which are not in what it gives."""
    chat = field(row.values, "chat")
    return chat.count("ASSISTANT:") - 1, calls_in(chat) - read(row).turns[-1].n_calls
