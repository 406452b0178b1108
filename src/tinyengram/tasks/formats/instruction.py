"""``instruction``: ``instruction``, ``input`` and ``output``, all text.

The instruction is the system text and the input the user's request; where there is no input, the instruction is the
request. A call in the output is learnt as the text that it is.
"""

from __future__ import annotations

from tinyengram.sources import Row
from tinyengram.tasks.conversations import Conversation, Turn
from tinyengram.tasks.formats.values import MalformedError, field, without_keys


def read(row: Row) -> Conversation:
    """The conversation in a row: at most a system turn, the request and its answer.

    Raises:
        MalformedError: The row has another shape.
    """
    without_keys(row.values, ("history", "system", "tools"), "write such conversations as 'messages' (format: openai)")
    output = field(row.values, "output")
    if not output.strip():
        raise MalformedError("'output' is empty; give the answer that shall be learnt, or leave the row out")
    instruction, request = field(row.values, "instruction", ""), field(row.values, "input", "")
    if not (instruction or request):
        raise MalformedError("'instruction' and 'input' are both empty; one of them must say what is asked")
    asked = (Turn("system", instruction), Turn("user", request)) if instruction and request else ()
    turns = (*(asked or (Turn("user", request or instruction),)), Turn("assistant", output))
    return Conversation(row.location, turns, learnt=(len(turns) - 1,))
