"""Rows of json and jsonl files, read as a stream: what people name either may be a list or one object a line."""

from __future__ import annotations

import codecs
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from tinyengram.sources.provenance import SourceError

_MARKS = (  # UTF-32's first: its mark begins with UTF-16's.
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_ROW_KEYS = ("data", "train")
_BLOCK = 1 << 16
_LONGEST_ITEM = 1 << 26  # characters; what is longer is no row but an unclosed quote or bracket
_SPACE = re.compile(r"[ \t\r\n]*")


@dataclass(frozen=True)
class Row:
    """One row and where it stands: ``file:line`` or ``name[index]``, the file without the user's folders."""

    location: str
    values: dict[str, Any]


@dataclass(frozen=True)
class BadRow:
    """A row that could not be read."""

    location: str
    reason: str


def read_json_text(file: Path, name: str) -> Iterator[Row | BadRow]:
    """Rows of a file of JSON text: one object a line, one list of objects, or (``.json``) one object.

    Args:
        file: In UTF-8, with or without a byte order mark, or in UTF-16 or UTF-32 with one.
        name: What its rows call it; what is wrong with the file as a whole names its path.

    Yields:
        A :class:`BadRow` for each line that is not an object in JSON, or not UTF-8.

    Raises:
        SourceError: A list is broken: what follows the break could not be found again.
        OSError: The file cannot be read.
    """
    with file.open("rb") as opened:
        head = opened.read(_BLOCK)
    encoding = next((name for mark, name in _MARKS if head.startswith(mark)), "utf-8-sig")
    begins = head.decode(encoding, errors="ignore").lstrip()[:1]
    if begins == "[":
        yield from _read_list(file, encoding, name)
    elif file.suffix.lower() == ".json" and not _is_one_a_line(file, encoding):
        yield from _read_object(file, encoding, name)
    else:
        yield from _read_lines(file, encoding, name)


# --- one object a line ---------------------------------------------------------------------------------------------


def _read_lines(file: Path, encoding: str, name: str) -> Iterator[Row | BadRow]:
    for number, line in _lines(file, encoding, name):
        if isinstance(line, BadRow):
            yield line
        elif line.strip():
            yield _parsed(f"{name}:{number}", line)


def _lines(file: Path, encoding: str, name: str) -> Iterator[tuple[int, str | BadRow]]:
    """Numbered lines, each read by itself so that one that is not UTF-8 does not take the others with it."""
    with file.open("rb") as opened:
        if encoding != "utf-8-sig":
            yield from _wide_lines(file, opened, encoding)
            return
        offset = 0
        for number, line in enumerate(opened, start=1):
            try:
                yield number, line.decode(encoding if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                place = offset + line.index(error.object) + error.start
                yield number, BadRow(f"{name}:{number}", _not_utf_8(error.object[error.start], place))
            offset += len(line)


def _wide_lines(file: Path, opened: io.BufferedReader, encoding: str) -> Iterator[tuple[int, str | BadRow]]:
    number = 0
    try:
        for number, line in enumerate(io.TextIOWrapper(opened, encoding, newline="\n"), start=1):
            yield number, line
    except UnicodeDecodeError as error:
        raise SourceError(f"{file}:{number + 1} is not {encoding.upper()} ({error.reason}). {_SAVE}") from error


_SAVE = "Save the file as UTF-8."


def _not_utf_8(byte: int, place: int) -> str:
    return f"not UTF-8: byte 0x{byte:02X} at byte {place} of the file, which may be Latin-1. {_SAVE}"


def _parsed(location: str, text: str) -> Row | BadRow:
    try:
        return _checked(location, json.loads(text))
    except (ValueError, RecursionError) as error:
        hint = ""
        if "\0" in text:
            hint = f"; it holds NUL bytes, as UTF-16 without its mark does. {_SAVE}"
        elif isinstance(error, json.JSONDecodeError) and error.pos >= len(text.rstrip()):
            hint = "; the line ends inside the object: write each on one line"
        return BadRow(location, f"not valid JSON: {_json_fault(error, text)}{hint}")


def _checked(location: str, value: Any) -> Row | BadRow:
    if isinstance(value, dict):
        return Row(location, value)
    kinds = {list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return BadRow(location, f"a row must be a JSON object, not {kinds.get(type(value), 'a number')}")


def _json_fault(error: Exception, text: str) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if not isinstance(error, json.JSONDecodeError):
        return str(error).partition(";")[0]  # an integer of thousands of digits
    around = text[max(0, error.pos - 20) : error.pos + 20].strip()
    return f"{error.msg} at character {error.pos + 1}, near {json.dumps(around)}"


# --- one list ------------------------------------------------------------------------------------------------------


def _read_list(file: Path, encoding: str, name: str) -> Iterator[Row | BadRow]:
    """Items of one list, decoded from a window that slides over the file."""
    try:
        with file.open(encoding=encoding, newline="") as text:
            for index, item in enumerate(_items(text, file)):
                yield _checked(f"{name}[{index}]", item)
    except UnicodeDecodeError as error:
        due = "UTF-8" if encoding == "utf-8-sig" else encoding.upper()
        at = _offset_of_fault(file) if encoding == "utf-8-sig" else None
        where = "" if at is None else f" at byte {at} of the file, which may be Latin-1"
        byte = error.object[error.start]
        raise SourceError(f"{file} is not {due}: byte 0x{byte:02X}{where}. {_SAVE}") from error


def _offset_of_fault(file: Path) -> int | None:
    """Where the first byte stands that is not UTF-8; only a second reading can tell."""
    decoder, offset = codecs.getincrementaldecoder("utf-8")(), 0
    with file.open("rb") as opened:
        while block := opened.read(_BLOCK):
            waiting = len(decoder.getstate()[0])
            try:
                decoder.decode(block)
            except UnicodeDecodeError as error:
                return offset - waiting + error.start
            offset += len(block)
    return None


def _items(text: io.TextIOBase, file: Path) -> Iterator[Any]:
    decoder = json.JSONDecoder()
    held = text.read(_BLOCK)
    at, index, between = held.index("[") + 1, 0, False
    while True:
        at = _SPACE.match(held, at).end()  # type: ignore[union-attr]
        if at == len(held):
            held, at = text.read(_BLOCK), 0
            if not held:
                raise SourceError(f"{file} ends inside its list, after item {index - 1}: it is cut off. Fetch it anew.")
            continue
        if held[at] == "]":
            break
        if between and held[at] == ",":
            at, between = at + 1, False
            continue
        fault: Exception | None = None
        try:
            value, end = decoder.raw_decode(held, at)
        except (ValueError, RecursionError) as error:
            fault, end = error, len(held)
        if end == len(held):  # What stands at the window's end may go on behind it.
            more = "" if len(held) - at > _LONGEST_ITEM else text.read(max(_BLOCK, len(held) - at))
            if more:
                held, at = held[at:] + more, 0
                continue
        if fault or between:
            reason = _json_fault(fault, held) if fault else "a comma is missing before it"
            raise SourceError(
                f"{file}[{index}] is not valid JSON: {reason}. Mend it: in a list nothing behind such a place can be "
                "read, in a file with one row a line it could."
            )
        yield value
        at, index, between = end, index + 1, True
    if held[at + 1 :].strip() or text.read(_BLOCK).strip():
        raise SourceError(
            f"{file} goes on after its list of {index} items. Give one list, or one object a line (a list of messages "
            'stands under a key: {"messages": […]}).'
        )


# --- one object ----------------------------------------------------------------------------------------------------


def _is_one_a_line(file: Path, encoding: str) -> bool:
    lines = (line for _, line in _lines(file, encoding, "") if isinstance(line, BadRow) or line.strip())
    begins = list(islice(lines, 2))
    return len(begins) == 2 and isinstance(begins[0], str) and isinstance(_parsed("", begins[0]), Row)


def _read_object(file: Path, encoding: str, name: str) -> Iterator[Row | BadRow]:
    """One row, or the rows that one object lists under ``data`` or ``train``."""
    try:
        value = json.loads(file.read_bytes().decode(encoding))
    except (ValueError, RecursionError):
        yield from _read_lines(file, encoding, name)  # which names the line
        return
    rows = value if isinstance(value, dict) else {}
    key = next((key for key in _ROW_KEYS if isinstance(rows.get(key), list)), None)
    if key is None:
        yield _checked(f"{name}[0]", value)
        return
    for index, item in enumerate(rows[key]):
        yield _checked(f"{name}[{key}][{index}]", item)
