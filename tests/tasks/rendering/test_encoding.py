"""Lengths are kept, the account adds up, and what is learnt can be shown."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.tasks.rendering.checks import assert_adds_up, by_turn
from tests.tasks.rendering.standins import CHAT, FORECAST, WRITING, messages, template, tokenizer
from tinyengram.tasks.conversations import Call, Conversation, Turn, learning, request
from tinyengram.tasks.errors import TaskError
from tinyengram.tasks.rendering import EncodedExample, Renderer, encode_all, marked_text

SHORT = learning(Conversation("short", (Turn("user", "a"), Turn("assistant", "b"))), "all")
TEMPLATES = ["chatml", "tokenizer"]


def renderer(kind: str) -> Renderer:
    return Renderer(tokenizer(template(), merging=False), template=kind)


class TestChatML:
    def test_writes_a_chat_in_the_experiment_s_words(self) -> None:
        (example,) = encode_all([CHAT], renderer("chatml")).examples
        pieces = marked_text(example, renderer("chatml").tokenizer)
        tools = (
            '{"name": "forecast", "description": "What the sky will do.", "parameters": {"type": "object", '
            '"properties": {"city": {"type": "string"}}, "required": ["city"]}}'
        )
        assert pieces == [
            (
                f"<|im_start|>system\nSpeak plainly.\n{tools}<|im_end|>\n<|im_start|>user\nRain in Zürich?<|im_end|>\n"
                "<|im_start|>assistant\n",
                False,
            ),
            (
                '<functioncall> {"name": "forecast", "arguments": {"city": "Zürich", "hours": [6, 12], "rain": true}}'
                "<|im_end|>",
                True,
            ),
            ('\n<|im_start|>tool\n{"sky": "grey"}<|im_end|>\n<|im_start|>assistant\n', False),
            ("The weather is grey ☁.<|im_end|>", True),
            ("\n<|im_start|>user\nGood day.<|im_end|>\n<|im_start|>assistant\n", False),
            ("Yes.<|im_end|>", True),
            ("</s>", False),
        ]
        assert (example.id, example.turns, example.calls) == (CHAT.id, CHAT.learnt, 1)

    def test_text_and_calls_are_lines(self) -> None:
        turns = (Turn("user", "a"), Turn("assistant", "Wait.", (Call("f", {}), Call("g", {"x": None}))))
        assert renderer("chatml").answer(Conversation("x", turns), 1) == (
            'Wait.\n<functioncall> {"name": "f", "arguments": {}}\n'
            '<functioncall> {"name": "g", "arguments": {"x": null}}<|im_end|>'
        )

    def test_the_system_turn_may_hold_tools_alone_or_be_absent(self) -> None:
        chatml = renderer("chatml")
        assert chatml.prompt(request("Hi")) == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
        for empty in (request("Hi", tools=(FORECAST,)), replace(CHAT, turns=(Turn("system", ""), *CHAT.turns[1:]))):
            assert chatml.prompt(empty).startswith('<|im_start|>system\n{"name": "forecast"')
        nothing = Conversation("x", (Turn("system", ""), Turn("user", "a"), Turn("assistant", "b")), learnt=(2,))
        assert chatml.turns(nothing)[0].prompt == "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n"

    def test_a_prompt_is_what_the_answer_follows(self) -> None:
        chatml = renderer("chatml")
        whole = "".join(text for text, _ in marked_text(encode_all([CHAT], chatml).examples[0], chatml.tokenizer))
        for turn in CHAT.learnt:
            assert whole.startswith(chatml.prompt(CHAT, turn) + chatml.answer(CHAT, turn))
            asked = replace(CHAT, turns=CHAT.turns[:turn])
            assert chatml.prompt(asked) == chatml.prompt(CHAT, turn)

    def test_generation_ends_at_its_own_end_and_at_the_end_of_text(self) -> None:
        fast = tokenizer(None)
        assert Renderer(fast, template="chatml").end_ids == (fast.eos_token_id,)
        fast.add_tokens(["<|im_end|>"], special_tokens=True)
        ends = (fast.eos_token_id, fast.convert_tokens_to_ids("<|im_end|>"))
        assert Renderer(fast, template="chatml").end_ids == ends
        assert Renderer(fast, template="chatml").call_format == "functioncall"

    def test_a_slow_tokenizer_is_refused(self) -> None:
        chatml = renderer("chatml")
        chatml.tokenizer = _Slow()
        with pytest.raises(TaskError, match="fast tokenizer"):
            encode_all([CHAT], chatml)


class _Slow:
    is_fast = False


@pytest.mark.parametrize("kind", TEMPLATES)
class TestLengths:
    def test_what_is_longer_is_left_out_and_counted(self, kind: str) -> None:
        shortest = len(encode_all([SHORT], renderer(kind)).examples[0].input_ids)
        data = encode_all([CHAT, SHORT], renderer(kind), max_length=shortest)
        reason = f"longer than max_length={shortest} tokens"
        assert [example.id for example in data.examples] == ["short"]
        assert [(one.what, one.reason, one.count, one.first) for one in data.left_out] == [
            ("turns", reason, 3, CHAT.id),
            ("calls", reason, 1, CHAT.id),
        ]
        assert data.too_long == 3
        assert_adds_up(data, [CHAT, SHORT])

    def test_earlier_turns_stay_where_later_ones_do_not_fit(self, kind: str) -> None:
        (whole,) = encode_all([CHAT], renderer(kind)).examples
        data = encode_all([CHAT], renderer(kind), max_length=len(whole.input_ids) - 1)
        (example,) = data.examples
        assert example.turns == (2, 4)
        assert len(example.input_ids) < len(whole.input_ids)
        two = replace(CHAT, learnt=(2, 4))
        assert example.input_ids == encode_all([two], renderer(kind)).examples[0].input_ids
        assert example.answer_mask == encode_all([two], renderer(kind)).examples[0].answer_mask
        assert_adds_up(data, [CHAT])

    def test_an_answer_may_be_cut(self, kind: str) -> None:
        (whole,) = encode_all([learning(CHAT, "calls")], renderer(kind)).examples
        end = whole.answer_mask.index(True) + sum(whole.answer_mask)
        data = encode_all([learning(CHAT, "calls")], renderer(kind), max_length=end - 1, on_too_long="truncate")
        (example,) = data.examples
        assert example.input_ids == whole.input_ids[: end - 1]
        assert example.answer_mask == whole.answer_mask[: end - 1]
        reason = f"cut off at max_length={end - 1} tokens"
        assert [(one.what, one.reason, one.count) for one in data.left_out] == [
            ("texts", reason, 1),
            ("calls", reason, 1),
        ]
        assert (data.turns, data.calls, data.too_long) == (1, 0, 1)
        assert_adds_up(data, [learning(CHAT, "calls")])

    @pytest.mark.parametrize("on_too_long", ["drop", "truncate"])
    def test_any_limit_is_kept_and_accounted_for(self, kind: str, on_too_long: str) -> None:
        writes = renderer(kind)
        whole, short = (encode_all([chat], writes).examples[0] for chat in (CHAT, SHORT))
        for limit in range(len(short.input_ids), len(whole.input_ids) + 1):
            data = encode_all([CHAT, SHORT], writes, max_length=limit, on_too_long=on_too_long)
            assert all(len(example.input_ids) <= limit for example in data.examples)
            assert_adds_up(data, [CHAT, SHORT])
            by_turn(data)

    def test_an_answer_that_does_not_begin_inside_is_left_out(self, kind: str) -> None:
        (whole,) = encode_all([learning(CHAT, "calls")], renderer(kind)).examples
        begin = whole.answer_mask.index(True)
        data = encode_all(
            [learning(CHAT, "calls"), SHORT], renderer(kind), max_length=max(begin, 40), on_too_long="truncate"
        )
        assert [example.id for example in data.examples] == ["short"]
        assert_adds_up(data, [learning(CHAT, "calls"), SHORT])

    def test_a_limit_shorter_than_everything_is_refused(self, kind: str) -> None:
        shortest = len(encode_all([SHORT], renderer(kind)).examples[0].input_ids)
        message = f"max_length=5 is shorter than every one of the 4 examples; the shortest has {shortest} tokens. Raise"
        with pytest.raises(TaskError, match=message):
            encode_all([CHAT, SHORT], renderer(kind), max_length=5)

    def test_nothing_that_is_learnt_is_refused(self, kind: str) -> None:
        with pytest.raises(TaskError, match="none of the 1 conversations has a turn that is marked"):
            encode_all([replace(CHAT, learnt=())], renderer(kind))

    def test_conversations_without_a_learnt_turn_give_nothing(self, kind: str) -> None:
        data = encode_all([replace(CHAT, learnt=()), SHORT], renderer(kind))
        assert [example.id for example in data.examples] == ["short"]

    def test_silent_turns_are_left_out(self, kind: str) -> None:
        silent = Conversation("silent", (Turn("user", "a"), Turn("assistant", "\n")), learnt=(1,))
        data = encode_all([silent, SHORT], renderer(kind))
        assert [(one.what, one.count, one.first) for one in data.left_out] == [("turns", 1, "silent")]


class TestLongChats:
    def test_prompts_are_tokenised_as_if_alone(self) -> None:
        """Also where special tokens stand in what people wrote, and where one eats the blanks around it."""
        from tokenizers import AddedToken

        fast = tokenizer(template())
        fast.add_tokens([AddedToken("<|greedy|>", lstrip=True, rstrip=True, special=True)], special_tokens=True)
        fast.add_tokens([AddedToken("plain word", single_word=True)])
        turns = [Turn("system", "Mind <|end|> and <|user|>.")]
        for index in range(12):
            turns.append(Turn("user", f"Is it  <|greedy|>  {index} plain words, plain word\n\n?"))
            turns.append(Turn("assistant", "\nYes. plain word  <|greedy|> \n"))
        chat = learning(Conversation("long", tuple(turns)), "all")
        found = by_turn(encode_all([chat], Renderer(fast)))
        assert len(found) == 12
        for (_, turn), (before, _) in found.items():
            served = messages(chat)[:turn]
            assert before == fast.apply_chat_template(served, add_generation_prompt=True, return_dict=False)

    @pytest.mark.parametrize(
        "eats", [{}, {"lstrip": True}, {"rstrip": True}, {"single_word": True}, {"normalized": True}]
    )
    def test_whatever_token_opens_the_answer(self, eats: dict[str, bool]) -> None:
        """One that is looked for after normalising is not cut out first: here a blank is put before whatever is."""
        from tokenizers import AddedToken, normalizers

        fast = tokenizer(
            template(
                turn="<turn> {{ message.role }} \n {{ message.content }}",
                end=" \n ",
                opening="{% if add_generation_prompt %}<turn> assistant \n {% endif %}",
            )
        )
        fast.backend_tokenizer.normalizer = normalizers.Prepend("▁")
        fast.add_tokens([AddedToken("<turn>", **{"normalized": False, "special": True, **eats})])
        turns = tuple(turn for _ in range(4) for turn in (Turn("user", "Good day."), Turn("assistant", "Yes.")))
        chat = learning(Conversation("x", turns), "all")
        found = by_turn(encode_all([chat], Renderer(fast)))
        assert len(found) == 4
        for (_, turn), (before, _) in found.items():
            served = messages(chat)[:turn]
            assert before == fast.apply_chat_template(served, add_generation_prompt=True, return_dict=False)

    def test_renders_each_turn_twice_at_most(self, monkeypatch: pytest.MonkeyPatch) -> None:
        fast = tokenizer(template())
        writes = Renderer(fast)
        assert writes.description
        rendered, tokenised = [], []
        render, call = fast.apply_chat_template, type(fast).__call__
        monkeypatch.setattr(fast, "apply_chat_template", lambda *a, **k: rendered.append(1) or render(*a, **k))
        monkeypatch.setattr(
            type(fast), "__call__", lambda self, text, **k: tokenised.append(len(text)) or call(self, text, **k)
        )
        turns = tuple(turn for _ in range(20) for turn in (Turn("user", "Good day."), Turn("assistant", "ja")))
        data = encode_all([learning(Conversation("long", turns), "all")], writes)
        assert data.turns == 20
        assert len(rendered) == 40
        # The last prompt once, and of each turn what is new: not each prompt anew.
        assert sum(tokenised) < 2 * len(writes.prompt(Conversation("long", turns)))


class TestMarkedText:
    @pytest.mark.parametrize("name", WRITING)
    def test_shows_the_whole_text_and_what_is_learnt(self, name: str) -> None:
        fast = tokenizer(WRITING[name])
        writes = Renderer(fast)
        for example in encode_all([CHAT], writes).examples:
            pieces = marked_text(example, fast)
            assert "".join(text for text, _ in pieces) == fast.decode(example.input_ids)
            learnt = [text for text, learnt in pieces if learnt]
            assert learnt == [writes.answer(CHAT, turn) for turn in example.turns]

    def test_a_character_that_is_split_stands_in_one_piece(self) -> None:
        fast = tokenizer(template())
        ids = fast("a☁b", add_special_tokens=False)["input_ids"]
        assert len(ids) == 5
        for split in range(2, 4):
            mask = [index >= split for index in range(len(ids))]
            assert marked_text(EncodedExample(ids, mask, "x"), fast) == [("a", False), ("☁b", True)]

    def test_blanks_between_pieces_stay(self) -> None:
        """SentencePiece drops the blank at the head of what it decodes."""
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast

        backend = Tokenizer(models.WordLevel({"[unk]": 0, "▁good": 1, "▁day": 2}, unk_token="[unk]"))
        backend.pre_tokenizer = pre_tokenizers.Metaspace()
        backend.decoder = decoders.Metaspace()
        fast = PreTrainedTokenizerFast(tokenizer_object=backend)
        pieces = marked_text(EncodedExample([1, 2, 1], [False, True, False], "x"), fast)
        assert pieces == [("good", False), (" day", True), (" good", False)]
