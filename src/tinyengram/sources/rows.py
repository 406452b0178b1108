"""Rows of data, one at a time with the place they came from, so that a bad one can be named."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinyengram.files import sha256_of
from tinyengram.sources.provenance import Provenance, SourceError

_SUFFIXES = (".jsonl", ".ndjson", ".json", ".parquet")


@dataclass(frozen=True)
class Row:
    """One row and where it stands: ``file:line`` or ``name[index]``."""

    location: str
    values: dict[str, Any]


@dataclass(frozen=True)
class BadRow:
    """A row that could not be read."""

    location: str
    reason: str


@dataclass
class RowSource:
    """Rows that are read anew at each iteration; ``rows`` yields :class:`Row` and :class:`BadRow`."""

    rows: Iterable[Row | BadRow]
    provenance: Provenance

    def __iter__(self) -> Iterator[Row | BadRow]:
        return iter(self.rows)


def resolve_rows(name: str, *, split: str = "train", revision: str | None = None) -> RowSource:
    """Rows of a local json, jsonl or parquet file (or a folder of them), or of a data set on the Hub.

    Args:
        name: Path, or Hub id.
        split: Split of a Hub data set.
        revision: Commit, branch or tag on the Hub.

    Returns:
        A source that streams; a file is never held whole, except a .json file, which is one value.

    Raises:
        SourceError: Nothing is there, or it is of a kind that cannot be read.
    """
    path = Path(name)
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix in _SUFFIXES)
        if not files:
            raise SourceError(f"The folder {name} holds no {', '.join(_SUFFIXES)} file.")
        return RowSource(_Files(files), Provenance(name=name, kind="local"))
    if path.exists():
        if path.suffix not in _SUFFIXES:
            raise SourceError(f"{name} ends in {path.suffix!r}; give one of {', '.join(_SUFFIXES)}.")
        return RowSource(_Files([path]), Provenance(name=name, kind="local", sha256=sha256_of(path)))
    if path.suffix in _SUFFIXES or path.is_absolute():
        raise SourceError(f"The data file {name} does not exist.")
    return _hub_rows(name, split, revision)


@dataclass(frozen=True)
class _Files:
    files: list[Path]

    def __iter__(self) -> Iterator[Row | BadRow]:
        for file in self.files:
            reader = {".json": _read_json, ".parquet": _read_parquet}.get(file.suffix, _read_json_lines)
            yield from reader(file)


def _read_json_lines(file: Path) -> Iterator[Row | BadRow]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield _parsed(f"{file}:{number}", line)


def _parsed(location: str, text: bytes) -> Row | BadRow:
    try:
        value = json.loads(text)
    except ValueError as error:
        return BadRow(location, f"not valid JSON: {error}")
    return _checked(location, value)


def _checked(location: str, value: Any) -> Row | BadRow:
    if not isinstance(value, dict):
        return BadRow(location, f"a row must be a JSON object, not {type(value).__name__}")
    return Row(location, value)


def _read_json(file: Path) -> Iterator[Row | BadRow]:
    """A list of objects, or (as many files named .json are) one object a line."""
    content = file.read_bytes()
    try:
        values = json.loads(content)
    except ValueError:
        yield from _read_json_lines(file)
        return
    for index, value in enumerate(values if isinstance(values, list) else [values]):
        yield _checked(f"{file}[{index}]", value)


def _read_parquet(file: Path) -> Iterator[Row | BadRow]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(file)
        index = 0
        for batch in table.iter_batches(batch_size=1024):
            for values in batch.to_pylist():
                yield Row(f"{file}[{index}]", values)
                index += 1
    except pyarrow.ArrowInvalid as error:
        raise SourceError(f"{file} is not a readable parquet file: {error}") from error


def _hub_rows(name: str, split: str, revision: str | None) -> RowSource:
    import datasets

    try:
        stream = datasets.load_dataset(name, split=split, revision=revision, streaming=True)
        first = next(iter(stream), None)
    except (OSError, ValueError, ConnectionError, datasets.exceptions.DatasetNotFoundError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise SourceError(
            f"Data set {name!r} is no local file and could not be loaded from the Hub ({reason}). Three ways to "
            "supply it: (1) run where the Hub is reached; (2) set HF_HOME to a cache that has it; (3) name a local "
            ".json, .jsonl or .parquet file in the study."
        ) from error
    if first is None:
        raise SourceError(f"Split {split!r} of the data set {name!r} is empty.")

    def read() -> Iterator[Row | BadRow]:
        for index, values in enumerate(stream):
            yield Row(f"{name}[{index}]", dict(values))

    class _Again:
        def __iter__(self) -> Iterator[Row | BadRow]:
            return read()

    return RowSource(_Again(), Provenance(name=name, kind="hub", revision=revision))
