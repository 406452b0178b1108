"""BFCL's requests: each call is one that BFCL accepts, and requests that no tool fits end where an answer is wanted."""

from __future__ import annotations

import pytest

from tinyengram.tasks.conversations import Call
from tinyengram.tasks.formats import bfcl


def test_a_row_becomes_a_conversation() -> None:
    function = {
        "name": "f",
        "parameters": {"type": "dict", "properties": {"a": {"type": "float"}, "o": {"type": "any"}}},
    }
    question = [[{"role": "system", "content": "S"}, {"role": "user", "content": "Q"}]]
    truth = [{"f": {"a": [1.5, 2], "o": [{"x": [1, 2], "y": [""]}], "left": ["", 3]}}]
    conversation = bfcl._conversation({"id": "i", "question": question, "function": [function]}, truth)
    system, user, answer = conversation.turns
    assert (system.text.splitlines()[0], user.text) == ("S", "Q")
    assert answer.calls == (Call("f", {"a": 1.5, "o": {"x": 1}}),)
    assert conversation.tools[0]["parameters"]["type"] == "object"
    assert conversation.tools[0]["parameters"]["properties"] == {"a": {"type": "number"}, "o": {"type": "string"}}
    assert (conversation.id, conversation.learnt, conversation.ground_truth) == ("bfcl:i", (2,), tuple(truth))


@pytest.mark.slow
def test_every_call_has_the_values_that_are_allowed_first() -> None:
    conversations = bfcl.read_calls()
    assert len(conversations) == 2351
    for conversation in conversations:
        calls = conversation.turns[-1].calls
        for call, truth in zip(calls, conversation.ground_truth, strict=True):
            ((name, allowed),) = truth.items()
            assert call.name == name
            for argument, value in call.arguments.items():
                assert value == allowed[argument][0] or isinstance(value, dict | list)
            for argument in allowed.keys() - call.arguments.keys():
                assert not allowed[argument] or allowed[argument][0] == ""


@pytest.mark.slow
def test_requests_that_no_tool_fits_end_with_the_user() -> None:
    conversations = bfcl.read_irrelevant()
    assert len(conversations) == 1124
    assert all(conversation.turns[-1].role == "user" and not conversation.learnt for conversation in conversations)
