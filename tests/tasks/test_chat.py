"""The mask says exactly which tokens are the answer, and generation starts from a prefix of the example."""

from __future__ import annotations

import pytest

from tinyengram.sources import load_base
from tinyengram.tasks.chat import chat_text, encode, encode_all
from tinyengram.tasks.errors import TaskError
from tinyengram.tasks.tool_calls import ToolCall

CALL = ToolCall("one", "Tools: {}", "Wörld?", '<functioncall> {"name": "f"}')


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TINYENGRAM_CACHE", str(tmp_path_factory.mktemp("cache")))
        return load_base("tiny-random-llama").tokenizer


def test_chatml_is_the_experiments(tokenizer) -> None:
    text = tokenizer.decode(encode(CALL, tokenizer).input_ids)
    assert text == (
        "<|im_start|>system\nTools: {}<|im_end|>\n<|im_start|>user\nWörld?<|im_end|>\n"
        '<|im_start|>assistant\n<functioncall> {"name": "f"}<|im_end|>' + tokenizer.eos_token
    )


@pytest.mark.parametrize("template", ["chatml", "tokenizer"])
def test_the_mask_covers_the_answer_and_its_end(tokenizer, template) -> None:
    example = encode(CALL, tokenizer, template=template)
    answer = [token for token, counts in zip(example.input_ids, example.answer_mask, strict=True) if counts]
    assert tokenizer.decode(answer).rstrip("\n") == CALL.output + "<|im_end|>"


@pytest.mark.parametrize("template", ["chatml", "tokenizer"])
def test_generation_starts_from_a_prefix_of_the_example(tokenizer, template) -> None:
    prompt = tokenizer.encode(
        chat_text(CALL.instruction, CALL.input, tokenizer, template=template), add_special_tokens=False
    )
    example = encode(CALL, tokenizer, template=template)
    assert example.input_ids[: len(prompt)] == prompt
    assert not any(example.answer_mask[: len(prompt)])
    assert example.answer_mask[len(prompt)]


def test_without_an_instruction_there_is_no_system_turn(tokenizer) -> None:
    assert "system" not in chat_text("", "Hi", tokenizer)


def test_too_long_examples_are_dropped_and_counted_or_cut(tokenizer) -> None:
    short = ToolCall("two", "", "a", "b")
    dropped = encode_all([CALL, short], tokenizer, max_length=60)
    assert [example.id for example in dropped.examples] == ["two"]
    assert dropped.too_long == 1
    longest = len(encode(CALL, tokenizer).input_ids)
    cut = encode_all([CALL, short], tokenizer, max_length=longest - 1, on_too_long="truncate")
    assert len(cut.examples[0].input_ids) == longest - 1


def test_a_limit_shorter_than_every_example_is_refused(tokenizer) -> None:
    shortest = len(encode(CALL, tokenizer).input_ids)
    with pytest.raises(TaskError, match=f"max_length=5 is shorter than every one .* shortest has {shortest} tokens"):
        encode_all([CALL], tokenizer, max_length=5)


def test_a_tokenizer_without_a_template_is_refused(tokenizer) -> None:
    import copy

    bare = copy.deepcopy(tokenizer)
    bare.chat_template = None
    with pytest.raises(TaskError, match="has none"):
        encode(CALL, bare, template="tokenizer")
