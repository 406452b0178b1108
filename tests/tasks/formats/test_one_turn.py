"""Formats of one request: xLAM and instructions."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.tasks.formats.chats import instruction, read, xlam
from tinyengram.tasks.conversations import Call, Turn
from tinyengram.tasks.formats import LeftOutError, MalformedError


class TestXlam:
    def test_several_answers_are_parallel_calls_and_parameters_become_a_schema(self) -> None:
        conversation = read("xlam", xlam())
        calls = (Call("weather", {"city": "Rome"}), Call("weather", {"city": "Bonn"}))
        assert conversation.turns == (Turn("user", "Rome and Bonn?"), Turn("assistant", "", calls))
        assert conversation.learnt == (1,)
        assert conversation.tools[0]["parameters"] == {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "Where."},
                "days": {"type": "integer", "description": "How many.", "default": "1"},
            },
            "required": ["city"],
        }

    def test_lists_may_stand_as_they_are(self) -> None:
        values = xlam()
        assert read("xlam", {**values, "answers": json.loads(values["answers"])}) == read("xlam", values)

    @pytest.mark.parametrize("answers", ["[]", [], None, ""])
    def test_no_answer_is_nothing_to_learn(self, answers: Any) -> None:
        with pytest.raises(LeftOutError, match="'answers' is empty"):
            read("xlam", {**xlam(), "answers": answers})

    @pytest.mark.parametrize(
        ("answers", "reason"),
        [
            ("none", "answers: not valid JSON"),
            ("5", "must be a list of calls"),
            ('["f"]', "answers[0] must be an object"),
        ],
    )
    def test_broken_answers_are_refused(self, answers: str, reason: str) -> None:
        with pytest.raises(MalformedError) as error:
            read("xlam", {**xlam(), "answers": answers})
        assert reason in str(error.value)


class TestInstruction:
    def test_system_user_and_answer_with_their_bytes(self) -> None:
        conversation = read("instruction", instruction())
        assert conversation.turns == (Turn("system", "Be brief."), Turn("user", "Hi"), Turn("assistant", " Hello.\n"))
        assert conversation.learnt == (2,)

    @pytest.mark.parametrize("asked", [{"instruction": "Hi"}, {"input": "Hi"}, {"instruction": "Hi", "input": ""}])
    def test_what_is_alone_is_the_request(self, asked: dict) -> None:
        assert read("instruction", {**asked, "output": "o"}).turns == (Turn("user", "Hi"), Turn("assistant", "o"))

    @pytest.mark.parametrize(
        ("values", "reason"),
        [
            ({"instruction": "a", "output": " "}, "'output' is empty"),
            ({"output": "o"}, "both empty"),
            ({"instruction": "a", "output": "o", "history": [["q", "a"]]}, "'history' is not read"),
            ({"instruction": "a", "output": {"x": 1}}, "'output' must be text, not {\"x\": 1}"),
            ({"instruction": "a\ud800", "output": "o"}, r"'instruction' holds \ud800"),
        ],
    )
    def test_what_it_cannot_say_is_refused(self, values: dict, reason: str) -> None:
        with pytest.raises(MalformedError) as error:
            read("instruction", values)
        assert reason in str(error.value)
