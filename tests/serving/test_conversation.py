"""A conversation is written as training data are, keeps what was said, and loses nothing where it is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from tests.serving.models import BASE, WEATHER, adapted, scripted, spread_base
from tinyengram.serving import Served, ServingError, Talk
from tinyengram.tasks.conversations import Call, Turn, learning
from tinyengram.tasks.errors import TaskError
from tinyengram.tasks.rendering import Renderer, encode_all

OSLO = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
BOTH = OSLO + '\n<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'
METHODS = {
    "lora": {"target_modules": "all-linear"},
    "engram": {"layer_ids": [1, 2], "init": "paper"},
    "prompt_tuning": {"num_virtual_tokens": 5},
    "ia3": {"target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]},
}


def served_base() -> Served:
    base = spread_base()
    return Served(base.model, base.tokenizer, BASE)


class TestWhatIsServed:
    @pytest.mark.parametrize("template", ["tokenizer", "chatml"])
    def test_prompts_and_answers_are_the_ids_that_training_reads(self, template: str) -> None:
        served = scripted(
            OSLO if template == "tokenizer" else '<functioncall> {"name": "weather", "arguments": {"city": "Oslo"}}',
            "It will rain — 雨.",
            "Bye.",
        )
        talk = Talk(served, template=template, tools=[WEATHER], system="Be brief.")
        talk.say("Will it rain in Oslo?")
        talk.give_result('{"sky": "overcast"}')
        talk.say("Thanks.")
        conversation = learning(talk.conversation, "all")
        trained = encode_all([conversation], Renderer(served.tokenizer, template=template)).examples
        texts = [served.tokenizer.decode(one.input_ids) for one in trained]
        for prompt, answer in zip(served.model.prompts, ["Oslo", "雨.<|im_end|>", "Bye.<|im_end|>"], strict=True):
            assert any(text.startswith(prompt) and answer in text[len(prompt) :] for text in texts)

    @pytest.mark.parametrize("method", METHODS)
    def test_an_answer_is_the_likeliest_by_the_forward_pass_that_is_trained(self, method: str) -> None:
        talk = Talk(adapted(method, **METHODS[method]), max_new_tokens=12)
        pieces: list[str] = []
        answer = talk.say("Hello", on_text=pieces.append)
        assert "".join(pieces) == answer.text
        prompt = talk.renderer.prompt(replace(talk.conversation, turns=talk.conversation.turns[:1]))
        ids = torch.tensor([talk.served.tokenizer(prompt)["input_ids"]])
        begin = ids.shape[1]
        with torch.no_grad():
            for _ in range(answer.tokens):
                ids = torch.cat([ids, talk.served.model(ids, use_cache=False).logits[:, -1:].argmax(-1)], dim=1)
        assert talk.served.tokenizer.decode(ids[0, begin:]) == answer.text

    def test_pieces_are_whole_characters(self) -> None:
        pieces: list[str] = []
        Talk(scripted("naïve 雨")).say("Hi", on_text=pieces.append)
        assert pieces == list("naïve 雨")

    def test_a_special_token_before_a_call_is_no_end_and_is_kept(self) -> None:
        assert Talk(scripted("<|im_start|>x")).say("Hi").text == "<|im_start|>x"


class TestBase:
    @pytest.mark.parametrize("method", METHODS)
    def test_it_says_what_the_base_alone_says_and_nothing_is_kept(self, method: str) -> None:
        talk = Talk(adapted(method, **METHODS[method]), max_new_tokens=8)
        said = talk.say("Hello")
        kept = talk.conversation
        alone = Talk(served_base(), max_new_tokens=8).say("Hello")
        assert talk.of_base().text == alone.text != said.text
        assert talk.conversation == kept
        # The adapter is back.
        talk.reset()
        assert talk.say("Hello").text == said.text

    def test_a_model_without_an_adapter_has_none(self) -> None:
        talk = Talk(scripted("Hello."))
        talk.say("Hi")
        with pytest.raises(ServingError, match="scripted has no adapter"):
            talk.of_base()


class TestCalls:
    def test_results_are_turns_and_the_model_goes_on_once_all_are_there(self) -> None:
        served = scripted(f"I look.\n{BOTH}", "Rome.")
        talk = Talk(served, tools=[WEATHER])
        answer = talk.say("Where is it dry?")
        assert answer.calls == (Call("weather", {"city": "Oslo"}), Call("weather", {"city": "Rome"}))
        assert answer.misfits == (None, None)
        assert talk.conversation.turns[-1] == Turn("assistant", "I look.", answer.calls)
        assert talk.give_result("rain") is None
        assert talk.unanswered == answer.calls[1:]
        assert talk.give_result("sun").text == "Rome."
        assert [turn.role for turn in talk.conversation.turns] == ["user", "assistant", "tool", "tool", "assistant"]
        assert "rain" in served.model.prompts[1]
        assert talk.unanswered == ()
        with pytest.raises(ServingError, match="no call to give a result to"):
            talk.give_result("more")

    def test_arguments_that_do_not_fit_are_named(self) -> None:
        wrong = json.dumps({"name": "weather", "arguments": {"town": "Oslo"}})
        assert Talk(scripted(wrong), tools=[WEATHER]).say("Rain?").misfits == ("city is missing",)

    def test_a_call_that_cannot_be_read_is_said_to_be_broken_and_kept_as_text(self) -> None:
        talk = Talk(scripted('<tool_call>{"name": "weather",'), tools=[WEATHER])
        assert talk.say("Rain?").broken
        assert talk.conversation.turns[-1] == Turn("assistant", '<tool_call>{"name": "weather",')


class TestKept:
    def test_a_text_beyond_the_context_is_refused_and_nothing_is_lost(self) -> None:
        talk = Talk(scripted("Fine.", "Good.", places=200), system="Be brief.")
        talk.say("How are you?")
        before = talk.conversation
        with pytest.raises(ServingError, match=r"has \d{5} tokens, but scripted reads at most 200"):
            talk.say("word " * 10_000)
        assert talk.conversation == before
        assert talk.say("And now?").text == "Good."

    def test_virtual_tokens_take_places(self) -> None:
        assert served_base().context == 2048
        assert adapted("prompt_tuning", num_virtual_tokens=5).context == 2043
        assert adapted("lora", target_modules="all-linear").context == 2048

    def test_an_answer_ends_where_the_context_does(self) -> None:
        served = scripted("x" * 200, places=60)
        answer = Talk(served).say("Hi")
        prompt = served.tokenizer(served.model.prompts[0])["input_ids"]
        assert answer.ending == "length"
        assert answer.tokens == 60 - len(prompt)

    def test_a_template_that_refuses_says_so_and_nothing_is_lost(self) -> None:
        served = scripted("Hello.")
        served.tokenizer.chat_template = (
            "{% for m in messages %}{% if 'forbidden' in m.content %}{{ raise_exception('not that word') }}{% endif %}"
            "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
            "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
        )
        talk = Talk(served)
        with pytest.raises(TaskError, match="not that word"):
            talk.say("forbidden")
        assert talk.conversation.turns == ()
        assert talk.say("Hi").text == "Hello."

    def test_half_a_character_is_refused(self) -> None:
        with pytest.raises(ServingError, match="half a character"):
            Talk(scripted()).say("\ud800")

    def test_again_takes_the_place_of_the_last_answer_and_is_drawn(self) -> None:
        served = scripted("First.", "Second.")
        talk = Talk(served)
        with pytest.raises(ServingError, match="Nothing was answered yet"):
            talk.again()
        talk.say("Hi")
        assert talk.again().text == "Second."
        assert [turn.text for turn in talk.conversation.turns] == ["Hi", "Second."]
        assert [asked["do_sample"] for asked in served.model.asked] == [False, True]
        assert served.model.prompts[0] == served.model.prompts[1]

    def test_the_system_text_is_replaced_and_survives_a_reset(self) -> None:
        served = scripted("One.", "Two.")
        talk = Talk(served, system="Be brief.")
        talk.say("Hi")
        talk.set_system("Be long.")
        talk.say("Hi again")
        assert "Be long." in served.model.prompts[1]
        assert "Be brief." not in served.model.prompts[1]
        assert "One." in served.model.prompts[1]
        talk.reset()
        assert talk.conversation.turns == (Turn("system", "Be long."),)

    def test_a_stopped_answer_is_kept_as_far_as_it_came(self) -> None:
        said: list[str] = []
        talk = Talk(scripted("Hello there."))
        answer = talk.say("Hi", on_text=said.append, stop=lambda: len(said) == 5)
        assert (answer.text, answer.ending) == ("Hello", "stopped")
        assert talk.conversation.turns[-1] == Turn("assistant", "Hello")
