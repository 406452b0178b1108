"""Vendors' own chat templates, on the embedded tokenizer with the special tokens that each wants."""

from __future__ import annotations

import copy
from dataclasses import replace
from datetime import datetime
from importlib.resources import files
from typing import Any

import pytest

from tests.tasks.rendering.checks import assert_adds_up, assert_served, by_turn
from tests.tasks.rendering.standins import CHAT, TWO
from tinyengram.tasks.conversations import Conversation
from tinyengram.tasks.rendering import EncodedData, Renderer, encode_all

pytestmark = pytest.mark.slow

BESIDE = replace(
    CHAT, id="beside", turns=(*CHAT.turns[:2], replace(CHAT.turns[2], text="Let me see."), *CHAT.turns[3:])
)

LLAMA = {"bos": "<|begin_of_text|>", "eos": "<|eot_id|>", "others": ["<|start_header_id|>", "<|end_header_id|>"]}
GEMMA = {"bos": "<bos>", "eos": "<eos>", "others": ["<start_of_turn>", "<end_of_turn>"]}
GEMMA4 = ["<|turn>", "<turn|>", "<|tool_call>", "<tool_call|>", "<|tool_response>", "<tool_response|>", '<|"|>']
GPT_OSS = ["<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|call|>"]
GLM = ["[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"]
PHI = {"eos": "<|endoftext|>", "others": ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]}

# trl's name of a template: the special tokens that it wants, and the format of its calls.
WRITES = {
    "qwen2_5": ({}, "hermes"),
    "qwen3": ({}, "hermes"),
    "qwen3_instruct_2507": ({}, "hermes"),
    "qwen3_5_think": ({}, "other"),
    "qwen3_5_nothink": ({}, "other"),
    "llama3_1": (LLAMA, "llama"),
    "llama3_2": (LLAMA, "llama"),
    "lfm2_2_5_v2": ({"others": ["<|tool_call_start|>", "<|tool_call_end|>"]}, "python"),
    "gemma4_v5": ({"bos": "<bos>", "eos": "<eos>", "others": GEMMA4}, "other"),
    "gptoss": ({"eos": "<|return|>", "others": GPT_OSS}, "other"),
    "glm4moe": ({"eos": "<|endoftext|>", "others": GLM}, "other"),
}
DOES_NOT = {
    "gemma": (GEMMA, "it takes no system turn"),
    "gemma3": (GEMMA, "does not write all of the turn's calls"),
    "phi3_5": (PHI, "does not write all of the turn's calls"),
    "deepseekv3": ({"eos": "<｜end▁of▁sentence｜>", "others": ["<｜User｜>", "<｜Assistant｜>"]}, "opens a thought"),
}


@pytest.fixture(scope="module")
def smollm2() -> Any:
    from tinyengram.sources import load_base

    return load_base("smollm2-135m-instruct").tokenizer


@pytest.fixture(autouse=True)
def held_date(monkeypatch: pytest.MonkeyPatch) -> None:
    """The day on which templates are held, so that what is served can be compared."""
    from transformers.utils import chat_template_utils

    monkeypatch.setattr(chat_template_utils, "datetime", _HeldDay)


class _HeldDay(datetime):
    @classmethod
    def now(cls, tz: Any = None) -> datetime:
        return datetime(2024, 7, 26, 12)


def with_template(tokenizer: Any, name: str, tokens: dict[str, Any]) -> Any:
    path = files("trl") / "chat_templates" / f"{name}.jinja"
    if not path.is_file():
        pytest.skip(f"this trl has no {name}")
    made = copy.deepcopy(tokenizer)
    made.add_tokens([*tokens.get("others", []), *filter(None, map(tokens.get, ("bos", "eos")))], special_tokens=True)
    made.bos_token = tokens.get("bos", made.bos_token)
    made.eos_token = tokens.get("eos", made.eos_token)
    made.chat_template = path.read_text()
    return made


def encoded(tokenizer: Any, *conversations: Conversation) -> tuple[Renderer, EncodedData]:
    renderer = Renderer(tokenizer)
    data = encode_all(conversations, renderer)
    assert_adds_up(data, conversations)
    return renderer, data


@pytest.mark.parametrize("name", WRITES)
def test_templates_that_write_calls_train_what_is_served(smollm2: Any, name: str) -> None:
    tokens, format = WRITES[name]
    tokenizer = with_template(smollm2, name, tokens)
    renderer, data = encoded(tokenizer, CHAT)
    assert renderer.description.startswith("the tokenizer's chat template; calls as it writes them")
    assert renderer.call_format == format
    assert (data.turns, data.calls, data.left_out) == (3, 1, [])
    assert_served(data, tokenizer, [CHAT])
    for _, answer in by_turn(data).values():
        assert answer[-1] in renderer.end_ids
        assert not set(answer[:-1]) & set(renderer.end_ids)


@pytest.mark.parametrize("name", DOES_NOT)
def test_templates_that_do_not_get_text_and_say_so(smollm2: Any, name: str) -> None:
    tokens, reason = DOES_NOT[name]
    renderer, data = encoded(with_template(smollm2, name, tokens), CHAT, TWO, BESIDE)
    assert "cannot write calls" in renderer.description
    assert reason in renderer.description
    assert (data.turns, data.calls, data.left_out) == (8, 4, [])


def test_the_embedded_model_s_template_cannot_write_calls(smollm2: Any) -> None:
    renderer, data = encoded(smollm2, CHAT, TWO, BESIDE)
    assert "cannot write calls" in renderer.description
    assert [example.id for example in data.examples] == [CHAT.id, "two", "beside"]
    assert renderer.end_ids == (smollm2.eos_token_id,)
    assert renderer.prompt(CHAT, 2).startswith("<|im_start|>system\nSpeak plainly.\n\nYou may call")


def test_llama_refuses_two_calls_and_drops_text_beside_one(smollm2: Any) -> None:
    _, data = encoded(with_template(smollm2, "llama3_1", LLAMA), CHAT, TWO, BESIDE)
    refused = "the chat template refuses: This model only supports single tool-calls at once!"
    assert [(one.what, one.reason, one.count, one.first) for one in data.left_out] == [
        ("turns", refused, 2, "two"),
        ("calls", refused, 2, "two"),
        ("texts", "the chat template drops the text beside a call", 1, "beside"),
    ]


def test_qwen_and_gemma_4_write_two_calls_and_text_beside_one(smollm2: Any) -> None:
    for name in ("qwen3", "qwen2_5", "gemma4_v5"):
        tokenizer = with_template(smollm2, name, WRITES[name][0])
        _, data = encoded(tokenizer, TWO, BESIDE)
        assert data.left_out == []
        assert_served(data, tokenizer, [TWO, BESIDE])


def test_qwen2_5_needs_one_text_and_qwen3_one_a_turn(smollm2: Any) -> None:
    """Qwen3 strips the thought that it writes before an answer as soon as something follows."""
    for name, count in (("qwen2_5", 1), ("qwen3", 3)):
        _, data = encoded(with_template(smollm2, name, {}), CHAT)
        assert len(data.examples) == count


def test_a_thousand_chats_take_seconds(smollm2: Any) -> None:
    import time

    conversations = [replace(CHAT, id=str(index)) for index in range(1000)]
    renderer = Renderer(smollm2)
    start = time.perf_counter()
    assert encode_all(conversations, renderer).turns == 3000
    assert time.perf_counter() - start < 30
