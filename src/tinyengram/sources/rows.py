"""Rows of data, one at a time with the place they came from, so that a bad one can be named."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinyengram.files import sha256_of
from tinyengram.sources.json_text import BadRow, Row, read_json_text
from tinyengram.sources.provenance import Provenance, SourceError

_SUFFIXES = (".jsonl", ".ndjson", ".json", ".parquet")
# What other tools leave beside the data, in json but not of it.
_NOT_DATA = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")


@dataclass
class RowSource:
    """Rows that are read anew at each iteration; ``rows`` yields :class:`Row` and :class:`BadRow`."""

    rows: Iterable[Row | BadRow]
    provenance: Provenance

    def __iter__(self) -> Iterator[Row | BadRow]:
        return iter(self.rows)

    def parts(self) -> list[Iterable[Row | BadRow]]:
        """The rows file by file; a data set of the Hub is one part."""
        return (
            [_Files([file], self.rows.folder) for file in self.rows.files]
            if isinstance(self.rows, _Files)
            else [self.rows]
        )


def resolve_rows(name: str, *, split: str = "train", revision: str | None = None) -> RowSource:
    """Rows of a local json, jsonl or parquet file (or a folder of them), or of a data set on the Hub.

    A json or jsonl file holds one object a line or one list of objects; text is UTF-8, or UTF-16 or -32 with a byte
    order mark. A .json file may also be one object that lists its rows under ``data`` or ``train``. Null-valued keys of
    objects *inside* a row of a parquet file or of the Hub are left out: Arrow fills with them what another row has.

    Args:
        name: Path, or Hub id.
        split: Split of a Hub data set.
        revision: Commit, branch or tag on the Hub.

    Returns:
        A source that streams; a file is never held whole, except a .json file that is one object.

    Raises:
        SourceError: Nothing is there, or it is of a kind that cannot be read.
    """
    path = Path(name)
    if path.is_dir():
        return RowSource(_Files(_data_files(path), path), Provenance(name=name, kind="local"))
    if path.exists():
        if path.suffix.lower() not in _SUFFIXES:
            raise SourceError(f"{name} ends in {path.suffix!r}; give one of {', '.join(_SUFFIXES)}.")
        try:
            return RowSource(_Files([path], path.parent), Provenance(name=name, kind="local", sha256=sha256_of(path)))
        except OSError as error:
            raise SourceError(f"{name} cannot be read: {error.strerror or error}.") from error
    if path.suffix.lower() in _SUFFIXES or path.is_absolute():
        raise SourceError(f"The data file {name} does not exist.")
    return _hub_rows(name, split, revision)


def _data_files(folder: Path) -> list[Path]:
    every = (file for file in sorted(folder.rglob("*")) if file.is_file())
    found = [file for file in every if not any(part.startswith(".") for part in file.relative_to(folder).parts)]
    files = [file for file in found if file.suffix.lower() in _SUFFIXES and file.name not in _NOT_DATA]
    if not files:
        arrow = any(file.suffix == ".arrow" for file in found)
        remedy = " It was saved by save_to_disk; write it with to_parquet." if arrow else ""
        raise SourceError(f"The folder {folder} holds no {', '.join(_SUFFIXES)} file.{remedy}")
    return files


@dataclass(frozen=True)
class _Files:
    """Files whose rows are named from ``folder`` on: where a row stands is kept, where the user keeps data is not."""

    files: list[Path]
    folder: Path

    def __iter__(self) -> Iterator[Row | BadRow]:
        for file in self.files:
            name = file.relative_to(self.folder).as_posix()
            read = _read_parquet if file.suffix.lower() == ".parquet" else read_json_text
            try:
                yield from read(file, name)
            except OSError as error:
                raise SourceError(f"{file} cannot be read: {error.strerror or error}.") from error


def _read_parquet(file: Path, name: str) -> Iterator[Row | BadRow]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(file)
        index = 0
        for batch in table.iter_batches(batch_size=1024):
            for values in batch.to_pylist():
                yield Row(f"{name}[{index}]", _without_fillers(values))
                index += 1
    except (pyarrow.ArrowException, ValueError, OverflowError) as error:
        raise SourceError(f"{file} is not a readable parquet file: {error}") from error


def _without_fillers(values: dict[str, Any]) -> dict[str, Any]:
    """The row without null-valued keys in the objects inside it.

    Arrow gives all objects of a column the same keys: a call with one argument comes with a null for each argument of
    each other call. A null that was meant cannot be told from those, so it goes as well; columns keep their nulls.
    """
    return {key: _dense(value) for key, value in values.items()}


def _dense(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _dense(part) for key, part in value.items() if part is not None}
    return [_dense(part) for part in value] if isinstance(value, list) else value


def _hub_rows(name: str, split: str, revision: str | None) -> RowSource:
    import datasets

    try:
        stream = datasets.load_dataset(name, split=split, revision=revision, streaming=True)
        begun = iter(stream)
        first = next(begun, None)
    except (OSError, ValueError, ConnectionError, datasets.exceptions.DatasetsError) as error:
        raise SourceError(
            f"Data set {name!r} is no local file and could not be loaded from the Hub ({_first_line(error)}). Three "
            "ways to supply it: (1) run where the Hub is reached; (2) set HF_HOME to a cache that has it; (3) name a "
            "local .json, .jsonl or .parquet file in the study."
        ) from error
    if first is None:
        raise SourceError(f"Split {split!r} of the data set {name!r} is empty.")
    return RowSource(_Stream(name, stream, [(first, begun)]), Provenance(name=name, kind="hub", revision=revision))


@dataclass
class _Stream:
    """A data set of the Hub; ``begun`` holds its first row and the rest, so that the first reading fetches it once."""

    name: str
    stream: Iterable[dict[str, Any]]
    begun: list[tuple[dict[str, Any], Iterator[dict[str, Any]]]]

    def __iter__(self) -> Iterator[Row | BadRow]:
        from datasets.exceptions import DatasetsError

        index = 0
        try:
            for index, values in enumerate(self._values()):
                yield Row(f"{self.name}[{index}]", _without_fillers(dict(values)))
        except (OSError, ValueError, ConnectionError, DatasetsError) as error:
            raise SourceError(
                f"Reading the data set {self.name!r} from the Hub broke off after row {index} ({_first_line(error)}). "
                "Try again, or name a local copy in the study."
            ) from error

    def _values(self) -> Iterator[dict[str, Any]]:
        if self.begun:
            first, rest = self.begun.pop()
            yield first
            yield from rest
        else:
            yield from self.stream


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
