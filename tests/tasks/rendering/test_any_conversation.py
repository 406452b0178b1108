"""Whatever is said and called, each learnt turn is trained as it is served."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tasks.rendering.checks import assert_adds_up, assert_served
from tests.tasks.rendering.standins import CHAT, WRITING, tokenizer
from tinyengram.tasks.conversations import Call, Conversation, Turn, learning
from tinyengram.tasks.rendering import Renderer, encode_all

words = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="<>⁂"), min_size=1, max_size=12
).filter(str.strip)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 10**6) | words,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(words, inner, max_size=2),
    max_leaves=4,
)
calls = st.builds(Call, st.sampled_from(["forecast", "search"]), st.dictionaries(words, values, max_size=3))


@st.composite
def conversations(draw: st.DrawFn) -> Conversation:
    turns: list[Turn] = [Turn("system", draw(words))] if draw(st.booleans()) else []
    made = 0
    for _ in range(draw(st.integers(1, 3))):
        turns.append(Turn("user", draw(words)))
        if draw(st.booleans()):
            called = tuple(draw(st.lists(calls, min_size=1, max_size=2)))
            turns.append(Turn("assistant", draw(st.just("") | words), called))
            for at, call in enumerate(called):
                turns.append(Turn("tool", draw(words), name=call.name, answers=made + at))
            made += len(called)
        turns.append(Turn("assistant", draw(words)))
    return learning(Conversation("drawn", tuple(turns), CHAT.tools if draw(st.booleans()) else ()), "all")


@pytest.mark.parametrize("name", [name for name, source in WRITING.items() if isinstance(source, str)])
@given(conversation=conversations())
@settings(max_examples=25, deadline=None)
def test_any_conversation_is_trained_as_it_is_served(name: str, conversation: Conversation) -> None:
    fast = tokenizer(WRITING[name])
    data = encode_all([conversation], Renderer(fast), max_length=10**6)
    assert data.left_out == []
    assert_served(data, fast, [conversation])
    assert_adds_up(data, [conversation])
