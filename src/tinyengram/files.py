"""Files are written whole or not at all: a reader never sees half a result, whatever interrupted the writer."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from tinyengram.errors import TinyEngramError

if TYPE_CHECKING:
    from pydantic import BaseModel

T = TypeVar("T", bound="BaseModel")


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write ``content`` to ``path`` so that ``path`` holds either its old or its new content, never a part.

    Args:
        path: Destination; its folder is created.
        content: Text (written as UTF-8) or bytes.

    Raises:
        OSError: The folder cannot be written, or the disk is full; ``path`` is then unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def read_model(schema: type[T], file: Path, remedy: str) -> T:
    """Read a JSON file that this package wrote.

    Raises:
        TinyEngramError: It is cut off, damaged or of another version: one line that names the file, and ``remedy``.
    """
    from pydantic import ValidationError

    try:
        return schema.model_validate_json(file.read_text(encoding="utf-8"))
    except (ValidationError, UnicodeDecodeError) as error:
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            reason = f"{where}: {first['msg']}" if where else first["msg"]
        else:
            reason = error.reason
        raise TinyEngramError(f"{file} cannot be read ({reason}). {remedy}") from error


def copy_atomically(source: Path, path: Path) -> None:
    """Copy a file so that ``path`` holds either its old or its new content, never a part.

    Raises:
        OSError: As for :func:`write_atomically`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        shutil.copyfile(source, temporary)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def sha256_of(path: Path) -> str:
    """Hexadecimal sha256 of a file, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def keep_trace(error: BaseException) -> Path:
    """Write an error's full trace to a new file in the system's folder for temporary files; its path."""
    handle, name = tempfile.mkstemp(prefix="tinyengram-error-", suffix=".txt")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write("".join(traceback.format_exception(error)))
    return Path(name)


@contextmanager
def only_process_in(folder: Path, writes: bool = True) -> Iterator[None]:
    """Work in a folder alone: a second process is refused, and a killed one leaves nothing that would refuse the next.

    Args:
        folder: Created; holds the lock as ``.lock`` meanwhile.
        writes: False for a process that helps another which holds the lock: nothing is locked.

    Raises:
        TinyEngramError: Another process works there.
    """
    if not writes:
        yield
        return
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise TinyEngramError(
            f"Another process works in {folder}. Wait until it is done and run the command again (what it finishes is "
            "taken as it is), or choose another --out."
        ) from error
    try:
        yield
    finally:
        lock.release()
