"""A megabyte of anything is read and judged in a moment: no text makes reading quadratic."""

from __future__ import annotations

import time

import pytest

from tinyengram.tasks.calls.judging import judge

SIZE = 1_000_000
# Linear takes up to 0.7 s here; quadratic would take minutes.
MOST_SECONDS = 10.0

CALL = '{"name":"f","arguments":{}}'
REPEATED = [
    *("<functioncall> ", "<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[TOOL_CALLS]f[ARGS]", "<|python_tag|>"),
    *("<|im_end|>", "<|", "<think>", "</think>", "{", "}", "[", "[\n", "[]", "{}", "(", "'", '"', "\\", '\\"', "\\'"),
    *("```", "`", " ", "\n", " \n", "a", "the ", "é", "#", "1,", "f(", "f(\n", "[f(", "f()", "f() x\n", 'f(a="'),
    *("f(a=1),", "f(a=1)\n", "[f(a=1)]", "'''", '"""', "from=", "from ", '{"name":"f","arguments":'),
    *('{"name":"f","parameters":{"a":', '{"id":"', '{"tool_calls":[', '{"name": "f", "arguments": \'{', CALL),
    *("<functioncall>" + CALL, f"<tool_call>{CALL}</tool_call>", "[TOOL_CALLS]f{}", f"{CALL};", f"x {CALL}"),
    *("<tool_call>{'name':'f','arguments':{}}</tool_call>", "f(\n" * 50 + "x\n" + ")" * 50 + " y\n"),
]
BEFORE = ["", "[f(a=", "Well,\n"]


@pytest.mark.parametrize("repeated", REPEATED, ids=lambda repeated: repr(repeated[:30]))
def test_a_megabyte_is_judged_in_a_moment(repeated: str) -> None:
    for before in BEFORE:
        text = before + repeated * (SIZE // len(repeated))
        started = time.perf_counter()
        judge(text, id="", wanted=[], tools=[{"name": "f"}])
        assert time.perf_counter() - started < MOST_SECONDS, before
