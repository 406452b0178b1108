"""What templates stumble over is made even before they see it: ids, empty turns, wrapping, the date."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.tasks.rendering import standins
from tests.tasks.rendering.standins import CHAT, template, tokenizer
from tinyengram.tasks.conversations import Call, Conversation, Turn, request
from tinyengram.tasks.rendering import Renderer
from tinyengram.tasks.rendering.messages import with_calls


class TestNormalising:
    def test_results_are_matched_with_their_calls(self) -> None:
        """Stated, else by the function's name, else in order."""
        calls = (Call("a", {}), Call("b", {}), Call("a", {}))
        results = (Turn("tool", "x", name="b"), Turn("tool", "y", answers=2), Turn("tool", "z"))
        chat = Conversation("x", (Turn("user", "?"), Turn("assistant", calls=calls), *results))
        ids = template(turn="{{ message.tool_call_id }}={{ message.name }};", calls="", end="", opening="", tools="")
        fast = tokenizer(ids)
        sent = with_calls(chat).messages
        assert fast.apply_chat_template(sent[2:], tokenize=False) == "<s>call00001=b;call00002=a;call00000=a;"

        in_order = replace(chat, turns=(*chat.turns[:2], Turn("tool", "x"), Turn("tool", "y"), Turn("tool", "z")))
        sent = with_calls(in_order).messages
        assert fast.apply_chat_template(sent[2:], tokenize=False) == "<s>call00000=a;call00001=b;call00002=a;"

    def test_plain_turns_have_no_tool_calls_and_empty_system_turns_vanish(self) -> None:
        chat = Conversation("x", (Turn("system", " "), Turn("user", "a"), Turn("assistant", "b")), learnt=(2,))
        made = with_calls(chat)
        assert made.messages == [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        assert made.tools is None
        assert Renderer(tokenizer(template())).answer(chat, 2) == "b<|end|>"

    def test_tools_may_be_wrapped_already(self) -> None:
        wrapped = replace(CHAT, tools=({"type": "function", "function": standins.FORECAST},))
        renderer = Renderer(tokenizer(template()))
        assert renderer.prompt(wrapped) == renderer.prompt(CHAT)

    @pytest.mark.parametrize(
        "head",
        [
            "{{ bos_token }}Today: {{ strftime_now('%d %b %Y') }}.",
            "\n{%- set today = strftime_now('%d %b %Y') if strftime_now is defined else '' %}Today: {{ today }}.",
            "  {% set today = strftime_now('%d %b %Y') %}Today: {{ today }}.",
            "{% if date_string is not defined %}{% set date_string = 'unknown' %}{% endif %}Today: {{ date_string }}.",
            "{% macro day() %}{{ strftime_now('%d %b %Y') }}{% endmacro %}Today: {{ day() }}.",
        ],
    )
    def test_a_date_is_held(self, head: str) -> None:
        renderer = Renderer(tokenizer(template(head=head)))
        assert "Today: 26 Jul 2024.<|user|>" in renderer.prompt(request("Hi"))
        assert renderer.prompt(request("Hi")).startswith(("<s>Today", "Today"))
        assert "it prints a date, which is held at 26 Jul 2024" in renderer.description
