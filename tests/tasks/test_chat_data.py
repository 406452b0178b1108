"""Every row, turn and call is accounted for: learnt, left out with a reason, or refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from tests.tasks.formats.chats import EVERY, glaive, hermes, openai, sharegpt, xlam
from tinyengram.tasks.chat_data import ChatData, load_conversations, split
from tinyengram.tasks.conversations import Call, request
from tinyengram.tasks.errors import TaskError
from tinyengram.tasks.left_out import LeftOut

USER = {"role": "user", "content": "Hi"}
HELLO = {"role": "assistant", "content": "Hello"}


def write(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return str(path)


def messages(*listed: dict, **row: Any) -> dict[str, Any]:
    return {"messages": list(listed), **row}


def left_out(data: ChatData, what: str) -> int:
    return sum(part.count for part in data.left_out if part.what == what)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "rows.jsonl"


class TestLoading:
    @pytest.mark.parametrize("format", [format for format in EVERY if format != "glaive-experiment"])
    def test_the_format_is_told_and_rows_stay_in_order(self, file: Path, format: str) -> None:
        name = write(file, [EVERY[format]] * 3)
        data = load_conversations(name)
        assert (data.format, data.rows, data.left_out, data.remarks) == (format, 3, [], [])
        assert [conversation.id for conversation in data.conversations] == [f"rows.jsonl:{line}" for line in (1, 2, 3)]
        assert data.provenance.sha256
        turns = [turn for conversation in data.conversations for turn in conversation.turns]
        assert data.learnt_turns == sum(turn.role == "assistant" for turn in turns)
        assert data.learnt_calls == sum(len(turn.calls) for turn in turns)

    def test_a_folder_is_one_set(self, tmp_path: Path) -> None:
        for name in ("b.jsonl", "a.jsonl"):
            write(tmp_path / name, [sharegpt()])
        data = load_conversations(str(tmp_path))
        assert [Path(conversation.id).name for conversation in data.conversations] == ["a.jsonl:1", "b.jsonl:1"]

    def test_a_folder_of_two_formats_is_refused_though_its_first_file_is_long(self, tmp_path: Path) -> None:
        write(tmp_path / "a.jsonl", [sharegpt()] * 300)
        write(tmp_path / "b.jsonl", [openai()])
        with pytest.raises(TaskError, match=r"mixes formats: .*a.jsonl:1 is sharegpt, .*b.jsonl:1 is openai"):
            load_conversations(str(tmp_path))

    def test_a_format_that_is_given_is_not_told_by_the_rows(self, file: Path) -> None:
        both = {**xlam(), **openai()}
        with pytest.raises(TaskError, match="fits xlam and openai"):
            load_conversations(write(file, [both]))
        assert load_conversations(str(file), format="messages").format == "openai"
        assert load_conversations(str(file), format="xlam").format == "xlam"

    def test_rows_of_another_format_further_down_are_named(self, file: Path) -> None:
        with pytest.raises(TaskError, match=r"rows.jsonl:301: .*looks like hermes, not sharegpt"):
            load_conversations(write(file, [sharegpt()] * 300 + [hermes()]))

    @pytest.mark.parametrize(
        ("options", "reason"),
        [
            ({"format": "chatml"}, "Data format 'chatml' is unknown"),
            ({"learn": "first"}, "learn='first' is unknown"),
            ({"format": "bfcl"}, "bfcl is the embedded data"),
        ],
    )
    def test_options_that_mean_nothing_are_refused(self, file: Path, options: dict, reason: str) -> None:
        with pytest.raises(TaskError, match=reason):
            load_conversations(write(file, [openai()]), **options)

    def test_bfcl_is_of_no_other_format(self) -> None:
        with pytest.raises(TaskError, match="bfcl is the embedded data"):
            load_conversations("bfcl", format="glaive")

    @pytest.mark.parametrize("content", ["", "\n \n", "[]"])
    def test_an_empty_file_says_so(self, file: Path, content: str) -> None:
        file.write_text(content)
        with pytest.raises(TaskError, match="it has no rows"):
            load_conversations(str(file))

    def test_the_hubs_rows_are_fetched_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        stream = Fetched([messages(USER, HELLO)] * 300)
        monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: stream)
        data = load_conversations("someone/chats")
        assert (data.rows, stream.fetched) == (300, 300)
        assert (data.conversations[299].id, data.provenance.kind) == ("someone/chats[299]", "hub")

    def test_after_too_many_bad_rows_not_everything_is_fetched(self, monkeypatch: pytest.MonkeyPatch) -> None:
        stream = Fetched([messages("x")] + [messages(USER, HELLO)] * 5000)  # type: ignore[arg-type]
        monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: stream)
        with pytest.raises(TaskError, match=r"someone/chats\[0\]: messages\[0\] must be an object"):
            load_conversations("someone/chats")
        assert 1000 <= stream.fetched < 1500


class Fetched:
    """Rows of the Hub, counted as they are fetched."""

    def __init__(self, rows: list[dict]) -> None:
        self.rows, self.fetched = rows, 0

    def __iter__(self):
        for row in self.rows:
            self.fetched += 1
            yield row


class TestTables:
    """What ``datasets`` writes has a null for every key of every other row."""

    CALLS = ({"city": "Oslo"}, {"a": 1, "b": [2]}, {})

    def rows(self, as_text: bool) -> list[dict]:
        chats = [
            messages(USER, {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": call}}]}, HELLO)
            for call in self.CALLS
        ]
        return [{"messages": json.dumps(chat["messages"])} for chat in chats] if as_text else chats

    @pytest.mark.parametrize("as_text", [True, False])
    def test_parquet(self, tmp_path: Path, as_text: bool) -> None:
        path = tmp_path / "rows.parquet"
        Dataset.from_list(self.rows(as_text)).to_parquet(path)
        data = load_conversations(str(path))
        assert [chat.turns[1].calls[0] for chat in data.conversations] == [Call("f", call) for call in self.CALLS]
        assert data.learnt_turns == 6

    def test_json_text_in_parquet_keeps_its_nulls(self, tmp_path: Path) -> None:
        path = tmp_path / "rows.parquet"
        Dataset.from_list([{**xlam(), "answers": '[{"name": "f", "arguments": {"a": null}}]'}]).to_parquet(path)
        assert load_conversations(str(path)).conversations[0].turns[1].calls == (Call("f", {"a": None}),)


class TestAccount:
    def test_turns_and_calls_are_learnt_or_left_out(self, file: Path) -> None:
        silent = {"role": "assistant", "content": " ", "tool_calls": []}
        rows = [openai(), messages(USER, silent, USER, {**HELLO, "weight": 0}, USER, HELLO)]
        for learn, turns, calls in (("all", 5, 3), ("calls", 2, 3), ("last", 2, 0)):
            data = load_conversations(write(file, rows), learn=learn)
            assert (data.learnt_turns, data.learnt_calls) == (turns, calls)
            assert turns + left_out(data, "turns") == 7
            assert calls + left_out(data, "calls") == 3
            assert data.rows == len(data.conversations) + left_out(data, "rows") == 2
        reasons = {part.reason: part for part in load_conversations(str(file)).left_out}
        assert reasons["the turn says and calls nothing"] == LeftOut(
            what="turns", reason="the turn says and calls nothing", count=1, first=f"{file.name}:2"
        )
        assert reasons["the row gives the turn weight 0"].count == 1

    def test_learn_marks_the_turns(self, file: Path) -> None:
        write(file, [openai()])
        learnt = {
            learn: load_conversations(str(file), learn=learn).conversations[0].learnt
            for learn in ("all", "calls", "last")
        }
        assert learnt == {"all": (2, 4, 6, 9), "calls": (2, 6), "last": (9,)}

    def test_rows_with_nothing_to_learn_are_counted_by_reason_with_the_first(self, file: Path) -> None:
        rows = [messages(USER), openai(), messages(USER), messages(), messages(USER, {**HELLO, "content": ""})]
        data = load_conversations(write(file, rows))
        assert [part for part in data.left_out if part.what == "rows"] == [
            LeftOut(what="rows", reason="no assistant turn", count=3, first=f"{file.name}:1"),
            LeftOut(what="rows", reason="no turn to learn (learn: all)", count=1, first=f"{file.name}:5"),
        ]
        assert data.rows == len(data.conversations) + left_out(data, "rows") == 5

    def test_nothing_left_says_why(self, file: Path) -> None:
        with pytest.raises(TaskError, match=r"Nothing to learn is left of .* \(2 rows: no turn to learn"):
            load_conversations(write(file, [messages(USER, HELLO)] * 2), learn="calls")

    def test_calls_of_functions_that_are_not_offered_are_remarked_on(self, file: Path) -> None:
        rows = [openai(), {**openai(), "tools": []}]
        data = load_conversations(write(file, rows))
        assert data.learnt_calls == 6
        assert data.remarks == [f"Calls of functions that their rows do not offer: 3, first at {file.name}:2."]

    @pytest.mark.parametrize("learn", ["all", "calls"])
    def test_the_experiment_leaves_out_what_its_filter_passes_over(self, file: Path, learn: Any) -> None:
        rows = [glaive(), {"system": "No access to external functions", "chat": "USER: a"}, glaive()]
        rows[1]["system"] = "You have no access to external functions"
        data = load_conversations(write(file, rows), format="glaive-experiment", learn=learn)
        reason = "not the first turn that calls, which alone the experiment keeps"
        assert data.left_out == [
            LeftOut(what="turns", reason=reason, count=4, first=f"{file.name}:1"),
            LeftOut(what="rows", reason="no functions offered", count=1, first=f"{file.name}:2"),
        ]
        assert (data.learnt_turns, data.learnt_calls) == (2, 2)


class TestMalformedRows:
    ROWS = (
        openai(),
        "{broken",
        openai(),
        "null",
        messages({"role": "user", "content": 7}),
        "[" * 100_000,
        messages(USER, {"role": "assistant", "tool_calls": ["x"]}),
        openai(),
    )

    def test_are_left_out_up_to_the_limit_with_place_and_reason(self, file: Path) -> None:
        data = load_conversations(write(file, list(self.ROWS)), max_bad_rows=5)
        assert len(data.conversations) == 3
        assert data.rows == 8 == len(data.conversations) + left_out(data, "rows")
        expected = {2: "not valid JSON", 4: "not null", 5: "must be text, not 7", 6: "nested too deeply", 7: 'not "x"'}
        for part, (line, reason) in zip(data.left_out, expected.items(), strict=True):
            assert part.first == f"{file.name}:{line}"
            assert reason in part.reason

    def test_beyond_the_limit_the_first_few_are_shown_at_once(self, file: Path) -> None:
        with pytest.raises(TaskError) as error:
            load_conversations(write(file, list(self.ROWS)), max_bad_rows=1)
        lines = str(error.value).splitlines()
        assert lines[0] == f"{file} has more malformed rows than max_bad_rows=1 allows:"
        assert [line.split(": ")[0].rsplit(":")[-1] for line in lines[1:-1]] == ["2", "4", "5", "6", "7"]
        assert "raise max_bad_rows" in lines[-1]

    def test_a_file_of_nothing_else_is_refused_by_its_rows(self, file: Path) -> None:
        with pytest.raises(TaskError, match=r"rows.jsonl:1: not valid JSON"):
            load_conversations(write(file, ["{"] * 1000))
        with pytest.raises(TaskError, match="it has no rows but malformed ones"):
            load_conversations(write(file, ["{"]), max_bad_rows=1)


class TestSplit:
    def conversations(self, count: int) -> list:
        return [request(str(number), id=str(number)) for number in range(count)]

    def test_is_the_one_that_datasets_makes(self) -> None:
        rows = [{"id": str(number)} for number in range(250)]
        parts = Dataset.from_list(rows).shuffle(seed=7).train_test_split(test_size=0.1, seed=7)
        made = split(self.conversations(250), seed=7, eval_fraction=0.1)
        assert [conversation.id for conversation in made.train] == parts["train"]["id"][:]
        assert [conversation.id for conversation in made.held_out] == parts["test"]["id"][:]
        assert made.remark is None

    @pytest.mark.parametrize(
        ("count", "held_out"), [(2, 1), (9, 1), (30, 6), (99, 19), (100, 20), (1999, 20), (2001, 21), (20_000, 200)]
    )
    def test_by_default_enough_is_held_out(self, count: int, held_out: int) -> None:
        made = split(self.conversations(count))
        assert len(made.held_out) == held_out
        assert len({conversation.id for conversation in made.train + made.held_out}) == count
        assert (made.remark is None) == (held_out >= 5)

    def test_a_fraction_is_obeyed_though_it_holds_out_too_few_to_measure_by(self) -> None:
        made = split(self.conversations(30), eval_fraction=0.01)
        assert len(made.held_out) == 1
        assert made.remark is not None
        for part in ("Only 1 of 30", "too few", "Without eval_fraction 6"):
            assert part in made.remark

    def test_what_is_over_the_limit_is_not_used(self) -> None:
        made = split(self.conversations(1000), eval_fraction=0.5, eval_limit=200)
        assert (len(made.train), len(made.held_out)) == (500, 200)

    @pytest.mark.parametrize(("count", "fraction"), [(1, 0.5), (0, None), (2, 0.9), (1, None)])
    def test_an_empty_side_is_refused(self, count: int, fraction: float | None) -> None:
        with pytest.raises(TaskError, match=f"A split of {count} conversations"):
            split(self.conversations(count), eval_fraction=fraction)

    @pytest.mark.parametrize("fraction", [0, 1, -0.1, 7])
    def test_a_fraction_is_one(self, fraction: float) -> None:
        with pytest.raises(TaskError, match="must lie between 0 and 1"):
            split(self.conversations(9), eval_fraction=fraction)
