"""Whatever a chat template does, the bytes that are trained are those that are served; what it cannot write is told."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.tasks.rendering.checks import assert_adds_up, assert_served, by_turn
from tests.tasks.rendering.standins import CHAT, NOT_WRITING, WRITING, template, tokenizer
from tinyengram.tasks.calls.reading import read_calls
from tinyengram.tasks.conversations import Call, Conversation, Turn, learning
from tinyengram.tasks.errors import TaskError
from tinyengram.tasks.rendering import Renderer, encode_all

AS_WRITTEN = "the tokenizer's chat template; calls as it writes them"


def answers(template: Any, conversation: Conversation = CHAT) -> list[str]:
    renderer = Renderer(tokenizer(template))
    return [renderer.answer(conversation, turn) for turn in conversation.learnt]


@pytest.mark.parametrize("name", WRITING)
class TestTemplatesThatWriteCalls:
    def test_train_what_is_served(self, name: str) -> None:
        fast = tokenizer(WRITING[name])
        renderer = Renderer(fast)
        data = encode_all([CHAT], renderer)
        assert renderer.description == AS_WRITTEN
        assert data.left_out == []
        assert sorted(by_turn(data)) == [(CHAT.id, turn) for turn in CHAT.learnt]
        assert_served(data, fast, [CHAT])
        assert_adds_up(data, [CHAT])

    def test_generation_starts_where_training_does(self, name: str) -> None:
        fast = tokenizer(WRITING[name])
        renderer = Renderer(fast)
        found = by_turn(encode_all([CHAT], renderer))
        for turn in CHAT.learnt:
            asked = replace(CHAT, turns=CHAT.turns[:turn], learnt=())
            assert renderer.prompt(asked) == renderer.prompt(CHAT, turn)
            before, answer = found[CHAT.id, turn]
            assert fast(renderer.prompt(asked), add_special_tokens=False)["input_ids"] == before
            assert fast.decode(answer) == renderer.answer(CHAT, turn)

    def test_generation_ends_where_training_does(self, name: str) -> None:
        renderer = Renderer(tokenizer(WRITING[name]))
        assert renderer.tokenizer.eos_token_id in renderer.end_ids
        for _, answer in by_turn(encode_all([CHAT], renderer)).values():
            assert answer[-1] in renderer.end_ids
            assert not set(answer[:-1]) & set(renderer.end_ids)


class TestTheAnswer:
    def test_ends_behind_the_token_that_ends_the_turn(self) -> None:
        call = '<|call|>{"name": "forecast", "arguments": {"city": "Zürich", "hours": [6, 12], "rain": true}}'
        assert answers(template()) == [f"{call}<|end|>", "The weather is grey ☁.<|end|>", "Yes.<|end|>"]

    def test_of_a_call_may_end_in_another_token(self) -> None:
        called, said, _ = answers(WRITING["another end behind a call"])
        assert called.endswith("}}<|called|>")
        assert said.endswith("☁.<|end|>")

    def test_ends_behind_the_turn_not_behind_the_chat(self) -> None:
        assert answers(WRITING["end of text behind the chat"])[-1] == "Yes.<|end|>"

    def test_ends_behind_the_last_of_two_tokens(self) -> None:
        assert answers(WRITING["two tokens end a turn"])[-1] == "Yes.<|close|><|end|>"

    def test_gets_an_end_where_turns_have_none(self) -> None:
        fast = tokenizer(
            template(
                end="",
                calls="{% for call in message.tool_calls or [] %}{{ call.function | tojson }}<|call|>{% endfor %}",
            )
        )
        renderer = Renderer(fast)
        assert renderer.answer(CHAT, 6) == "Yes.</s>"
        assert renderer.answer(CHAT, 2).endswith("}}<|call|></s>")
        assert renderer.end_ids == (fast.eos_token_id,)
        assert "no end of their own: </s> is put there" in renderer.description

    def test_gets_no_second_end(self) -> None:
        ended = template(end="{% if message.tool_calls %}{{ eos_token }}{% endif %}")
        called, said, _ = answers(ended)
        assert called.endswith("}}</s>")
        assert said == "The weather is grey ☁.</s>"

    def test_holds_the_thought_that_the_template_writes_before_it(self) -> None:
        assert answers(WRITING["thought in the last turn"])[-1] == "<think>\n\n</think>\n\nYes.<|end|>"

    def test_closes_a_thought_that_the_prompt_opens(self) -> None:
        opened = template(opening="{% if add_generation_prompt %}<|assistant|>\n<think>\n{% endif %}")
        renderer = Renderer(tokenizer(opened))
        assert renderer.prompt(CHAT, 6).endswith("<|assistant|>\n<think>\n")
        assert renderer.answer(CHAT, 6) == "\n</think>\n\nYes.<|end|>"
        assert "opens a thought" in renderer.description

    def test_keeps_the_thought_that_the_template_closes_itself(self) -> None:
        closed = template(
            turn="<|{{ message.role }}|>\n{% if message.role == 'assistant' %}<think>\nWell.\n</think>\n\n{% endif %}"
            "{{ message.content }}",
            opening="{% if add_generation_prompt %}<|assistant|>\n<think>\n{% endif %}",
        )
        assert answers(closed)[-1] == "Well.\n</think>\n\nYes.<|end|>"

    def test_is_what_follows_the_shared_text_where_the_prompt_is_no_prefix(self) -> None:
        called, said, _ = answers(WRITING["system text lost before an answer"])
        assert called.startswith('<|call|>{"name": "forecast"')
        assert said == "The weather is grey ☁.<|end|>"
        assert answers(WRITING["no break before a call"])[0].startswith('<|call|>{"name": "forecast"')

    def test_is_refused_where_earlier_turns_change_with_it(self) -> None:
        changing = template(
            turn="<|{{ message.role }}|>\n{{ messages[-1].content[:3] }}{{ message.content }}",
            opening="{% if add_generation_prompt %}<|assistant|>\n!{% endif %}",
        )
        with pytest.raises(TaskError, match="its answer cannot be told apart"):
            answers(changing, learning(Conversation("x", (Turn("user", "Hi"), Turn("assistant", "Yes."))), "all"))


class TestTextsThatAreShared:
    def test_a_stable_template_needs_one_text(self) -> None:
        (example,) = encode_all([CHAT], Renderer(tokenizer(template(), merging=False))).examples
        assert example.id == CHAT.id
        assert example.turns == CHAT.learnt

    def test_a_template_that_rewrites_history_needs_one_a_turn(self) -> None:
        data = encode_all([CHAT], Renderer(tokenizer(WRITING["thought in the last turn"])))
        assert [example.id for example in data.examples] == [f"{CHAT.id}#{turn}" for turn in CHAT.learnt]
        assert {example.conversation for example in data.examples} == {CHAT.id}

    def test_turns_share_as_far_as_the_text_is_kept(self) -> None:
        data = encode_all([CHAT], Renderer(tokenizer(WRITING["tools before the last request"])))
        assert [(example.id, example.turns) for example in data.examples] == [
            (f"{CHAT.id}#4", (2, 4)),
            (f"{CHAT.id}#6", (6,)),
        ]

    def test_nothing_is_trained_twice(self) -> None:
        for template_ in WRITING.values():
            found = by_turn(encode_all([CHAT], Renderer(tokenizer(template_))))
            assert len(found) == len(CHAT.learnt)

    def test_prompt_and_answer_are_tokenised_apart(self) -> None:
        """On this tokenizer the line break before an answer and its first word would be one token."""
        fast = tokenizer(template())
        joint = fast("<|assistant|>\nThe weather", add_special_tokens=False)["input_ids"]
        apart = fast("<|assistant|>\n", add_special_tokens=False)["input_ids"]
        assert joint[: len(apart)] != apart
        assert_served(encode_all([CHAT], Renderer(fast)), fast, [CHAT])

    def test_a_text_that_merges_across_the_answer_is_not_shared(self) -> None:
        """The next prompt is read in one go: there the answer's first word is merged with the line break before it."""
        said = learning(
            Conversation(
                "x", (Turn("user", "a"), Turn("assistant", "The weather"), Turn("user", "b"), Turn("assistant", "c"))
            ),
            "all",
        )
        fast = tokenizer(template())
        data = encode_all([said], Renderer(fast))
        assert len(data.examples) == 2
        assert_served(data, fast, [said])

    def test_only_learnt_turns_are_marked(self) -> None:
        last = learning(CHAT, "last")
        (example,) = encode_all([last], Renderer(tokenizer(template()))).examples
        assert example.turns == (6,)
        assert sorted(by_turn(encode_all([last], Renderer(tokenizer(template()))))) == [(CHAT.id, 6)]

    def test_a_beginning_of_text_stands_once(self) -> None:
        fast = tokenizer(template())
        for template_ in (template(), template(head="")):
            fast.chat_template = template_
            (example,) = encode_all([learning(CHAT, "last")], Renderer(fast)).examples
            assert example.input_ids.count(fast.bos_token_id) == template_.count("bos_token")


class TestTemplatesThatDoNotWriteCalls:
    @pytest.mark.parametrize("name", NOT_WRITING)
    def test_get_them_as_text_and_say_so(self, name: str) -> None:
        source, reason = NOT_WRITING[name]
        renderer = Renderer(tokenizer(source))
        assert "cannot write calls" in renderer.description
        assert reason in renderer.description
        assert renderer.call_format == "hermes"
        data = encode_all([CHAT], renderer)
        assert (data.turns, data.calls, data.left_out) == (3, 1, [])
        assert_adds_up(data, [CHAT])

    def test_are_asked_and_answered_in_hermes_words(self) -> None:
        renderer = Renderer(tokenizer(template(calls="")))
        prompt = renderer.prompt(CHAT, 4)
        assert "Speak plainly.\n\nYou may call one or more functions" in prompt
        assert '<tools>\n{"type": "function", "function": {"name": "forecast"' in prompt
        assert prompt.endswith('<|user|>\n<tool_response>\n{"sky": "grey"}\n</tool_response><|end|>\n<|assistant|>\n')
        assert renderer.answer(CHAT, 2) == (
            '<tool_call>\n{"name": "forecast", "arguments": {"city": "Zürich", "hours": [6, 12], "rain": true}}\n'
            "</tool_call><|end|>"
        )

    def test_results_in_a_row_are_one_turn(self) -> None:
        calls = (Call("forecast", {"city": "Bern"}), Call("forecast", {"city": "Chur"}))
        turns = (Turn("user", "Both?"), Turn("assistant", "Wait.", calls), Turn("tool", "one"), Turn("tool", "two"))
        chat = learning(Conversation("x", (*turns, Turn("assistant", "Both dry.")), CHAT.tools), "all")
        renderer = Renderer(tokenizer(NOT_WRITING["no system turn and alternating"][0]))
        assert renderer.prompt(chat, 4).endswith(
            "<|user|>\n<tool_response>\none\n</tool_response>\n<tool_response>\ntwo\n</tool_response><|end|>\n"
            "<|assistant|>\n"
        )
        assert renderer.answer(chat, 1).startswith("Wait.\n<tool_call>\n")
        assert renderer.answer(chat, 4) == "Both dry.<|end|>"
        assert encode_all([chat], renderer).calls == 2

    def test_without_a_system_turn_its_text_opens_the_request(self) -> None:
        refusing = template(
            head="{% if messages[0].role == 'system' %}{{ raise_exception('no system turns') }}{% endif %}"
        )
        renderer = Renderer(tokenizer(refusing))
        assert "it takes no system turn" in renderer.description
        assert "cannot write calls" not in renderer.description
        assert "<|user|>\nSpeak plainly.\n\nRain in Zürich?<|end|>" in renderer.prompt(CHAT, 2)
        assert encode_all([CHAT], renderer).turns == 3

    def test_plain_chats_are_what_the_template_makes_of_them(self) -> None:
        fast = tokenizer(template(calls=""))
        plain = learning(Conversation("x", (Turn("user", "Hi"), Turn("assistant", "Ho"))), "all")
        assert_served(encode_all([plain], Renderer(fast)), fast, [plain])


class TestTheFormatOfCalls:
    @pytest.mark.parametrize(
        ("calls", "format"),
        [
            ("<functioncall> {{ call.function | tojson }}", "functioncall"),
            ("<tool_call>\n{{ call.function | tojson }}\n</tool_call>", "hermes"),
            ("<tool_call>\n<function={{ call.function.name }}>{{ call.function.arguments | tojson }}", "other"),
            ("[TOOL_CALLS][{{ call.function | tojson }}]", "mistral"),
            ("[TOOL_CALLS]{{ call.function.name }}[ARGS]{{ call.function.arguments | tojson }}", "mistral"),
            (
                '{"name": "{{ call.function.name }}", "parameters": {{ call.function.arguments | tojson }}}',
                "llama",
            ),
            ("<|call|>[{{ call.function | tojson }}]", "json"),
            (
                "[{{ call.function.name }}({% for name, value in call.function.arguments.items() %}{{ name }}="
                "{{ value | tojson }}{{ '' if loop.last else ', ' }}{% endfor %})]",
                "python",
            ),
        ],
    )
    def test_is_recognised(self, calls: str, format: str) -> None:
        loop = f"{{% for call in message.tool_calls or [] %}}{calls}{{% endfor %}}"
        renderer = Renderer(tokenizer(template(calls=loop)))
        assert renderer.call_format == format
        if format == "other":
            with pytest.raises(TaskError, match="a notation that cannot be read back"):
                renderer.readable_format()
        else:
            assert renderer.readable_format() == format
            assert [call.name for call in read_calls(renderer.answer(CHAT, 2).removesuffix("<|end|>")).calls] == [
                "forecast"
            ]
