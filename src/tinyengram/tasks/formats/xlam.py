"""``xlam``: one request with the calls that answer it, as Salesforce's xLAM writes them.

``query``, ``answers`` and ``tools``, the latter two as JSON text; several answers are parallel calls of one turn.

Source: https://huggingface.co/datasets/Salesforce/xlam-function-calling-60k
"""

from __future__ import annotations

from tinyengram.sources import Row
from tinyengram.tasks.conversations import Conversation
from tinyengram.tasks.formats.builder import ConversationBuilder
from tinyengram.tasks.formats.tools import offered_tools, read_calls
from tinyengram.tasks.formats.values import LeftOutError, MalformedError, field, json_or_value, shown


def read(row: Row) -> Conversation:
    """The conversation in a row: the request and one turn with its calls.

    Raises:
        MalformedError: The row has another shape.
        LeftOutError: It has no answer.
    """
    query = field(row.values, "query")
    answers = json_or_value(row.values.get("answers"), "answers")
    chat = ConversationBuilder(row.location, offered_tools(row.values.get("tools")))
    if answers in (None, "", []):
        raise LeftOutError("'answers' is empty")
    if not isinstance(answers, list | dict):
        raise MalformedError(f"'answers' must be a list of calls or JSON text of one, not {shown(answers)}")
    chat.system(field(row.values, "system", ""), "'system'")
    chat.user(query, "'query'")
    chat.assistant("", read_calls(answers, "answers"), what="answers")
    return chat.conversation()
