"""JSON files are read as people save them, in flat memory, and what cannot be read is named with its place."""

from __future__ import annotations

import codecs
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from tinyengram.sources import BadRow, Row, SourceError, resolve_rows

VALUES: list[dict[str, Any]] = [{"a": index, "b": "così — 漢字"} for index in range(5)]
LINES = "\n".join(json.dumps(value, ensure_ascii=False) for value in VALUES) + "\n"
LIST = json.dumps(VALUES, ensure_ascii=False)


def rows(file: Path) -> list[Row | BadRow]:
    return list(resolve_rows(str(file)))


def values(file: Path) -> list[dict[str, Any]]:
    return [row.values for row in rows(file) if isinstance(row, Row)]


@pytest.mark.parametrize("name", ["x.jsonl", "x.json", "x.ndjson", "X.JSONL"])
@pytest.mark.parametrize(
    "text", [LINES, LIST, json.dumps(VALUES, indent=2), f"\n {LIST}\n\n", LINES.replace("\n", "\r\n")]
)
def test_lines_and_lists_under_any_name(tmp_path: Path, name: str, text: str) -> None:
    file = tmp_path / name
    file.write_bytes(text.encode())
    assert values(file) == VALUES


@pytest.mark.parametrize("text", [LINES, LIST])
@pytest.mark.parametrize(
    ("mark", "encoding"),
    [
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
        (codecs.BOM_UTF32_LE, "utf-32-le"),
    ],
)
def test_text_with_a_byte_order_mark(tmp_path: Path, text: str, mark: bytes, encoding: str) -> None:
    for name in ("x.jsonl", "x.json"):
        (tmp_path / name).write_bytes(mark + text.encode(encoding))
        assert values(tmp_path / name) == VALUES


def test_places(tmp_path: Path) -> None:
    (tmp_path / "l.jsonl").write_text(f"\n{LINES}")
    (tmp_path / "l.json").write_text(LIST)
    assert [row.location for row in rows(tmp_path / "l.jsonl")][:2] == ["l.jsonl:2", "l.jsonl:3"]
    assert [row.location for row in rows(tmp_path / "l.json")][:2] == ["l.json[0]", "l.json[1]"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"data": VALUES, "version": 1}, VALUES),
        ({"train": VALUES, "test": [{"a": 9}]}, VALUES),
        ({"a": 1, "b": [2]}, [{"a": 1, "b": [2]}]),
    ],
)
def test_one_object(tmp_path: Path, value: dict, expected: list) -> None:
    for indent in (None, 2):
        file = tmp_path / "one.json"
        file.write_text(json.dumps(value, indent=indent))
        assert values(file) == expected


class TestBadLines:
    def reasons(self, tmp_path: Path, content: bytes) -> list[tuple[int, str]]:
        file = tmp_path / "x.jsonl"
        file.write_bytes(content)
        found = [row for row in rows(file) if isinstance(row, BadRow)]
        return [(int(row.location.rsplit(":")[-1]), row.reason) for row in found]

    def test_latin_1_names_the_byte_and_spares_the_other_lines(self, tmp_path: Path) -> None:
        ((line, reason),) = self.reasons(
            tmp_path, '{"a": 1}\n{"a": "é"}\n'.encode() + '{"a": "né"}\n{}'.encode("latin-1")
        )
        offset = len('{"a": 1}\n{"a": "é"}\n{"a": "n'.encode())
        assert line == 3
        assert f"not UTF-8: byte 0xE9 at byte {offset} of the file" in reason
        assert "Save the file as UTF-8" in reason

    def test_the_offset_counts_the_mark(self, tmp_path: Path) -> None:
        ((_, reason),) = self.reasons(tmp_path, codecs.BOM_UTF8 + b'{"a": "\xe9"}\n')
        assert "at byte 10 of" in reason

    def test_utf_16_without_its_mark_is_suspected(self, tmp_path: Path) -> None:
        reasons = self.reasons(tmp_path, '{"a": 1}\n'.encode("utf-16-le"))
        assert "NUL bytes, as UTF-16 without its mark" in reasons[0][1]

    @pytest.mark.parametrize(
        ("line", "reason"),
        [
            ("null", "a row must be a JSON object, not null"),
            ('"x"', "not text"),
            ("7", "not a number"),
            ("true", "not true or false"),
            ('{"a": 1} {"b": 2}', 'Extra data at character 10, near "{\\"a\\": 1} {\\"b\\": 2}"'),
            ('{"a": ' + "9" * 5000 + "}", "not valid JSON: Exceeds the limit"),
            ('{"a":' * 100_000, "nested too deeply"),
            ("{", "the line ends inside the object: write each on one line"),
        ],
    )
    def test_a_line_that_is_no_object_is_a_bad_row(self, tmp_path: Path, line: str, reason: str) -> None:
        ((number, found),) = self.reasons(tmp_path, f'{{"a": 1}}\n{line}\n{{"a": 2}}\n'.encode())
        assert number == 2
        assert reason in found
        assert len(found) < 300


class TestBrokenLists:
    """What follows a break in a list cannot be found again, so the file is refused whole."""

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ('[{"a": 1}, {"a": }, {"a": 3}]', r"x.json\[1\] is not valid JSON: Expecting value"),
            ('[{"a": 1}, {"a": 2}', r"ends inside its list, after item 1: it is cut off"),
            ('[{"a": 1}, {"a": "cut', r"x.json\[1\] is not valid JSON: Unterminated string"),
            ('[{"a": 1} {"a": 2}]', r"x.json\[1\] is not valid JSON: a comma is missing"),
            ('[{"a": 1}]\n[{"a": 2}]', r"goes on after its list of 1 items"),
            ("[" * 100_000, r"x.json\[0\] is not valid JSON: it is nested too deeply"),
        ],
    )
    def test_are_refused_with_the_place(self, tmp_path: Path, text: str, reason: str) -> None:
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(SourceError, match=reason):
            rows(tmp_path / "x.json")

    def test_latin_1(self, tmp_path: Path) -> None:
        text = '[{"a": "' + "x" * 70_000 + 'é"}]'
        (tmp_path / "x.json").write_bytes(text.encode("latin-1"))
        with pytest.raises(SourceError, match=f"not UTF-8: byte 0xE9 at byte {text.index('é')} of the file"):
            rows(tmp_path / "x.json")

    def test_items_that_are_no_objects_are_bad_rows(self, tmp_path: Path) -> None:
        (tmp_path / "x.json").write_text('[1, {"a": 1}, null]')
        assert [row.location[-3:] for row in rows(tmp_path / "x.json") if isinstance(row, BadRow)] == ["[0]", "[2]"]


def test_items_longer_than_what_is_read_at_once(tmp_path: Path) -> None:
    long = [{"a": "x" * length} for length in (70_000, 10, 200_000, 65_000)]
    (tmp_path / "x.json").write_text(json.dumps(long))
    assert values(tmp_path / "x.json") == long


@pytest.mark.parametrize(("name", "as_list"), [("x.jsonl", False), ("x.json", False), ("x.json", True)])
def test_memory_is_flat(tmp_path: Path, name: str, as_list: bool) -> None:
    """A file of 24 MB takes no more than one of 3 MB, and far less than it is long."""
    row = json.dumps({"a": "x" * 3000})
    peaks = []
    for count in (1000, 8000):
        file = tmp_path / name
        with file.open("w") as opened:
            opened.write("[" * as_list)
            for index in range(count):
                opened.write(f"{',' if as_list and index else ''}{row}\n")
            opened.write("]" * as_list)
        source = resolve_rows(str(file))
        tracemalloc.start()
        read = sum(isinstance(row, Row) for row in source)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert read == count
    assert peaks[1] < 1.5 * peaks[0]
    assert peaks[1] < 1_000_000


class TestFolders:
    def test_what_other_tools_leave_is_not_data(self, tmp_path: Path) -> None:
        for name in (
            "a.jsonl",
            "deep/b.JSON",
            "dataset_info.json",
            "state.json",
            ".cache/c.jsonl",
            "._a.jsonl",
            "x.txt",
        ):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text('{"a": 1}')
        found = [row.location for row in resolve_rows(str(tmp_path))]
        assert found == ["a.jsonl:1", "deep/b.JSON[0]"]

    def test_rows_are_named_from_the_folder_on_so_that_files_of_one_name_are_told_apart(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("one/rows.jsonl", "other/rows.jsonl"):
            (tmp_path / "data" / name).parent.mkdir(parents=True)
            (tmp_path / "data" / name).write_text("{}\n[]\n")
        expected = ["one/rows.jsonl:1", "one/rows.jsonl:2", "other/rows.jsonl:1", "other/rows.jsonl:2"]
        monkeypatch.chdir(tmp_path / "data" / "one")
        for given in (str(tmp_path / "data"), "..", "../../data"):
            source = resolve_rows(given)
            assert [row.location for row in source] == expected
            assert [row.location for part in source.parts() for row in part] == expected
        assert [row.location for row in resolve_rows("rows.jsonl")] == ["rows.jsonl:1", "rows.jsonl:2"]

    def test_a_folder_of_arrow_files_says_what_to_do(self, tmp_path: Path) -> None:
        (tmp_path / "data-00000.arrow").write_text("")
        with pytest.raises(SourceError, match="write it with to_parquet"):
            resolve_rows(str(tmp_path))
