"""Every row is accounted for: learned, dropped by the experiment's filter, or malformed and named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from datasets import Dataset

from tinyengram.tasks.errors import TaskError
from tinyengram.tasks.tool_calls import load_irrelevant, load_tool_calls

TOOLS = "SYSTEM: You have these functions -\n{}\n"


def glaive(chat: str, system: str = TOOLS) -> dict:
    return {"system": system, "chat": chat}


def write(path: Path, rows: list) -> str:
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return str(path)


GOOD = glaive(
    'USER: Hi\n\n\nASSISTANT: <functioncall> {"name": "f", "arguments": \'{"a": 1}\'} <|endoftext|>\n\n\nFUNCTION '
    "RESPONSE: {}"
)


def every(path: str, **options) -> list:
    data = load_tool_calls(path, eval_fraction=0.5, **options)
    return sorted(data.train + data.eval, key=lambda call: call.id)


class TestGlaive:
    def only(self, tmp_path: Path, row: dict):
        """The call that one row gives; a good row beside it keeps both sides of the split filled."""
        calls = every(write(tmp_path / "rows.jsonl", [row, GOOD, GOOD]))
        return next((call for call in calls if call.id.endswith(":1")), None)

    def test_a_row_gives_system_last_user_turn_and_the_cut_call(self, tmp_path: Path) -> None:
        call = self.only(tmp_path, GOOD)
        assert call.instruction == TOOLS.strip()
        assert call.input == "Hi"
        assert call.output == '<functioncall> {"name": "f", "arguments": \'{"a": 1}\'}'

    def test_the_first_calling_turn_counts_with_the_user_turn_right_before_it(self, tmp_path: Path) -> None:
        call = self.only(
            tmp_path,
            glaive(
                "USER: one\nASSISTANT: Sure, which?\nUSER: two\nASSISTANT: <functioncall> {1}\nUSER: x\nASSISTANT: "
                "<functioncall> {2}"
            ),
        )
        assert (call.input, call.output) == ("two", "<functioncall> {1}")

    def test_tool_code_is_a_call_too(self, tmp_path: Path) -> None:
        assert self.only(tmp_path, glaive("USER: a\nASSISTANT: <tool_code> f()")).output == "<tool_code> f()"

    @pytest.mark.parametrize(
        ("row", "reason"),
        [
            (glaive(GOOD["chat"], "You have no access to external functions."), "no functions offered"),
            (glaive("USER: a\nASSISTANT: No call here."), "no assistant turn calls a function"),
            (glaive("ASSISTANT: hello\nASSISTANT: <functioncall> {}"), "no user turn right before the call"),
            (glaive("USER: a\nASSISTANT: well USER: b <functioncall>"), "the cut turn holds no call"),
        ],
    )
    def test_what_the_filter_drops_is_counted_by_reason(self, tmp_path: Path, row: dict, reason: str) -> None:
        data = load_tool_calls(write(tmp_path / "rows.jsonl", [GOOD, row, GOOD, row]), eval_fraction=0.5)
        assert data.dropped == {reason: 2}
        assert len(data.train) + len(data.eval) == 2
        assert not data.skipped


class TestOwnFiles:
    def test_instruction_rows(self, tmp_path: Path) -> None:
        rows = [{"instruction": "s", "input": f"i{n}", "output": "o"} for n in range(4)]
        assert [call.input for call in every(write(tmp_path / "rows.jsonl", rows))] == ["i0", "i1", "i2", "i3"]

    def test_chat_messages_with_tools_and_structured_calls(self, tmp_path: Path) -> None:
        row = {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "Weather in Oslo?"},
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [{"function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}],
                },
            ],
            "tools": [{"type": "function", "function": {"name": "weather"}}],
        }
        call = every(write(tmp_path / "rows.jsonl", [row, row]))[0]
        assert call.instruction == 'Be brief.\n{"name": "weather"}'
        assert call.input == "Weather in Oslo?"
        assert call.output == '<functioncall> {"name": "weather", "arguments": {"city": "Oslo"}}'

    def test_rows_of_no_known_shape_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(TaskError, match=r"rows.jsonl:1 has the keys \['foo'\]"):
            load_tool_calls(write(tmp_path / "rows.jsonl", [{"foo": 1}]))


class TestMalformedRows:
    ROWS = (GOOD, "{broken", GOOD, glaive(7), GOOD)  # type: ignore[arg-type]

    def test_are_named_with_file_and_line_and_skipped_up_to_the_limit(self, tmp_path: Path) -> None:
        path = write(tmp_path / "rows.jsonl", list(self.ROWS))
        data = load_tool_calls(path, eval_fraction=0.4, max_bad_rows=2)
        assert [bad.location for bad in data.skipped] == [f"{path}:2", f"{path}:4"]
        assert "not valid JSON" in data.skipped[0].reason
        assert "'chat' must be text, not int" in data.skipped[1].reason
        assert len(data.train) + len(data.eval) == 3

    def test_beyond_the_limit_the_first_are_shown(self, tmp_path: Path) -> None:
        path = write(tmp_path / "rows.jsonl", list(self.ROWS))
        with pytest.raises(TaskError) as error:
            load_tool_calls(path, max_bad_rows=1)
        for part in ("max_bad_rows=1", f"{path}:2", f"{path}:4"):
            assert part in str(error.value)


class TestSplit:
    def test_is_the_one_that_datasets_makes(self, tmp_path: Path) -> None:
        rows = [{"instruction": "", "input": str(n), "output": "o"} for n in range(250)]
        data = load_tool_calls(write(tmp_path / "rows.jsonl", rows), eval_fraction=0.1)
        parts = Dataset.from_list(rows).shuffle(seed=42).train_test_split(test_size=0.1, seed=42)
        assert [call.input for call in data.train] == parts["train"]["input"][:]
        assert [call.input for call in data.eval] == parts["test"]["input"][:]

    def test_eval_is_capped_and_never_in_train(self, tmp_path: Path) -> None:
        rows = [{"instruction": "", "input": str(n), "output": "o"} for n in range(1000)]
        data = load_tool_calls(write(tmp_path / "rows.jsonl", rows), eval_fraction=0.5)
        assert len(data.eval) == 200
        assert not {call.input for call in data.eval} & {call.input for call in data.train}

    def test_an_empty_side_is_refused(self, tmp_path: Path) -> None:
        path = write(tmp_path / "rows.jsonl", [GOOD])
        with pytest.raises(TaskError, match=r"eval split .* is empty: 1 usable rows"):
            load_tool_calls(path)

    def test_nothing_left_says_why(self, tmp_path: Path) -> None:
        row = glaive("USER: a\nASSISTANT: no call")
        with pytest.raises(TaskError, match="1 rows: no assistant turn calls a function"):
            load_tool_calls(write(tmp_path / "rows.jsonl", [row]))


@pytest.mark.slow
class TestBfcl:
    def test_every_call_is_json_with_allowed_values(self) -> None:
        data = load_tool_calls("bfcl", eval_fraction=0.1)
        calls = data.train + data.eval
        assert len(data.train) == 2115
        for call in calls:
            lines = call.output.split("\n")
            assert len(lines) == len(call.ground_truth)
            for line, truth in zip(lines, call.ground_truth, strict=True):
                written = json.loads(line.removeprefix("<functioncall> "))
                ((name, allowed),) = truth.items()
                assert written["name"] == name
                for argument, value in written["arguments"].items():
                    assert value == allowed[argument][0] or isinstance(value, dict | list)
                for argument in allowed.keys() - written["arguments"].keys():
                    assert not allowed[argument] or allowed[argument][0] == ""

    def test_types_are_json_schema(self) -> None:
        call = load_tool_calls("bfcl", eval_fraction=0.1).train[0]
        assert call.tools[0]["parameters"]["type"] == "object"

    def test_irrelevant_requests_have_tools_but_no_call(self) -> None:
        calls = load_irrelevant()
        assert len(calls) == 1124
        assert all(call.tools and call.output == "" for call in calls if call.tools)
