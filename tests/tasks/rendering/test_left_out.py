"""What a chat template cannot write is left out by name and number, and what it refuses is told in its own words."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.tasks.rendering.checks import assert_adds_up
from tests.tasks.rendering.standins import CHAT, NOT_WRITING, TWO, template, tokenizer
from tinyengram.tasks.conversations import Call, Conversation, Turn
from tinyengram.tasks.errors import TaskError
from tinyengram.tasks.rendering import Renderer, encode_all


class TestWhatIsLeftOut:
    def left_out(self, source: str, *conversations: Conversation) -> list[tuple[str, str, int, str]]:
        data = encode_all([CHAT, *conversations], Renderer(tokenizer(source)))
        assert_adds_up(data, [CHAT, *conversations])
        return [(one.what, one.reason, one.count, one.first) for one in data.left_out]

    def test_what_a_template_refuses_with_its_own_words(self) -> None:
        refusing = template(
            turn="<|{{ message.role }}|>\n{{ message.content }}"
            "{% if message.tool_calls and message.tool_calls | length > 1 %}"
            "{{ raise_exception('one call at a time!') }}{% endif %}"
        )
        reason = "the chat template refuses: one call at a time!"
        again = replace(TWO, id="again")
        assert self.left_out(refusing, TWO, again) == [("turns", reason, 4, "two"), ("calls", reason, 4, "two")]

    def test_calls_that_a_template_passes_over(self) -> None:
        first_only = template(
            calls="{% for call in (message.tool_calls or [])[:1] %}{{ call.function | tojson }}{% endfor %}"
        )
        reason = "the chat template does not write all of the turn's calls"
        assert self.left_out(first_only, TWO) == [("turns", reason, 1, "two"), ("calls", reason, 2, "two")]

    def test_equal_calls_that_a_template_passes_over(self) -> None:
        first_only = template(
            calls="{% for call in (message.tool_calls or [])[:1] %}{{ call.function | tojson }}{% endfor %}"
        )
        twice = replace(TWO, turns=(Turn("user", "?"), Turn("assistant", calls=(Call("f", {}),) * 2)), learnt=(1,))
        assert [what for what, *_ in self.left_out(first_only, twice)] == ["turns", "calls"]

    @pytest.mark.parametrize("written", ["call.function.arguments.keys()", "call.function.arguments.values()"])
    def test_arguments_that_a_template_passes_over(self, written: str) -> None:
        """It writes the probe's, which is about days, but not all of other calls."""
        cut = template(
            calls="{% for call in message.tool_calls or [] %}{{ call.function.name }}"
            "{% if call.function.arguments.days %}{{ call.function.arguments | tojson }}{% else %}{{ "
            + written
            + " | list | tojson }}{% endif %}{% endfor %}"
        )
        reason = "the chat template does not write all of the turn's calls"
        assert self.left_out(cut) == [("turns", reason, 1, CHAT.id), ("calls", reason, 1, CHAT.id)]

    def test_text_beside_a_call_but_not_the_call(self) -> None:
        dropping = template(
            turn="<|{{ message.role }}|>\n{% if not message.tool_calls %}{{ message.content }}{% endif %}"
        )
        beside = replace(
            CHAT, id="beside", turns=(*CHAT.turns[:2], replace(CHAT.turns[2], text="Let me see."), *CHAT.turns[3:])
        )
        assert self.left_out(dropping, beside) == [
            ("texts", "the chat template drops the text beside a call", 1, "beside")
        ]

    def test_text_that_a_template_drops(self) -> None:
        stripping = template(turn="<|{{ message.role }}|>\n{{ message.content.split('</think>')[-1] }}")
        thought = Conversation("t", (Turn("user", "Hi"), Turn("assistant", "<think>Hm.</think>Ho")), learnt=(1,))
        assert self.left_out(stripping, thought) == [
            ("turns", "the chat template does not write all of the turn's text", 1, "t")
        ]

    def test_turns_that_say_nothing(self) -> None:
        silent = Conversation("s", (Turn("user", "Hi"), Turn("assistant", " ")), learnt=(1,))
        assert self.left_out(template(), silent) == [("turns", "the turn says and calls nothing", 1, "s")]

    def test_turns_that_nothing_comes_before(self) -> None:
        first = Conversation("f", (Turn("assistant", "Welcome."),), learnt=(0,))
        ((what, reason, count, where),) = self.left_out(template(), first)
        assert (what, count, where) == ("turns", 1, "f")
        assert "empty conversation" in reason

    def test_nothing_left_is_an_error_with_the_template_s_words(self) -> None:
        alternating = tokenizer(NOT_WRITING["no system turn and alternating"][0])
        twice = Conversation("t", (Turn("user", "a"), Turn("user", "b"), Turn("assistant", "c")), learnt=(2,))
        with pytest.raises(TaskError, match=r"(?s)1 turns: .*roles must alternate \(first: t\).*template: chatml"):
            encode_all([twice], Renderer(alternating))

    def test_a_prompt_that_is_refused_is_an_error_that_names_the_conversation(self) -> None:
        renderer = Renderer(tokenizer(NOT_WRITING["no system turn and alternating"][0]))
        twice = Conversation("t", (Turn("user", "a"), Turn("user", "b")))
        with pytest.raises(TaskError, match="t: the chat template refuses: roles must alternate"):
            renderer.prompt(twice)


class TestRefusals:
    def test_without_a_template_chatml_is_named(self) -> None:
        with pytest.raises(TaskError, match=r"has none\. Use template: chatml"):
            Renderer(tokenizer(None))

    def test_a_template_that_cannot_write_a_plain_exchange(self) -> None:
        with pytest.raises(TaskError, match=r"refuses: never!\. Use template: chatml"):
            _ = Renderer(tokenizer("{{ raise_exception('never!') }}")).description

    def test_an_answer_that_cannot_be_written(self) -> None:
        stripping = template(turn="<|{{ message.role }}|>\n{{ message.content.split('</think>')[-1] }}")
        chat = Conversation("t", (Turn("user", "Hi"), Turn("assistant", "Hm.</think>Ho")))
        with pytest.raises(TaskError, match="t: the chat template does not write all of the turn's text"):
            Renderer(tokenizer(stripping)).answer(chat, 1)
