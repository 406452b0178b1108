"""A storage that every node reaches, for nodes that share no file system: whole files under a URL of fsspec's.

What was made together is a *piece*: its files lie in the storage as they do in a run folder, and a list of them with
their checksums, ``whole/<piece>.json``, is written when all are there. What no list names was cut off, and is not there
for anybody.
"""

from __future__ import annotations

import json
import os
import platform
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from tinyengram.errors import TinyEngramError
from tinyengram.files import sha256_of

_WHOLE = "whole"


class Storage:
    """Files under a URL. Errors name the URL and this machine.

    Args:
        url: Such as ``s3://bucket/prefix``, or ``file:///mnt/x`` for a folder that is mounted everywhere.

    Raises:
        TinyEngramError: It is no URL, or nothing that is installed reads its protocol.
    """

    def __init__(self, url: str) -> None:
        import fsspec
        from fsspec.implementations.local import LocalFileSystem

        if "://" not in url:
            raise TinyEngramError(
                f"--storage {url!r} is no URL. Give one such as s3://bucket/prefix, or file:///mnt/x for a folder that "
                "every node mounts."
            )
        try:
            self._files, root = fsspec.url_to_fs(url)
        except (ImportError, ValueError) as error:  # Names the package that is to be installed.
            raise TinyEngramError(
                f"--storage {url} cannot be used on {platform.node()}: {error}. Every node needs what reads it."
            ) from error
        except Exception as error:
            raise self._unreachable("read", error, url) from error
        self._root = root.rstrip("/")
        self._made: set[PurePosixPath] = set()
        # A path from this process's own folder would be another one elsewhere.
        self.url = f"file://{self._root}" if isinstance(self._files, LocalFileSystem) else url

    def read(self, name: str) -> bytes | None:
        """What a file holds; None where there is none."""
        with self._reaching("read"):
            try:
                content: bytes = self._files.cat_file(self._at(name))
            except FileNotFoundError:
                return None
        return content

    def write(self, name: str, content: bytes) -> None:
        """Write a file, whole or not at all."""
        with self._reaching("written"), self._moved_to(name) as begun:
            self._files.pipe_file(begun, content)

    def check_writable(self) -> None:
        """Write a file and delete it.

        Raises:
            TinyEngramError: That cannot be done.
        """
        self.write(".writable", b"-")
        with self._reaching("written"):
            self._files.rm_file(self._at(".writable"))

    def names(self, folder: str = "") -> list[str]:
        """Of all files in a folder and those in it, relative to it."""
        inside = self._at(folder).rstrip("/") + "/"
        with self._reaching("read"):
            self._files.invalidate_cache()  # Others write there.
            try:
                found = self._files.find(inside)
            except FileNotFoundError:
                return []
        names = sorted(path[path.index(inside) + len(inside) :] for path in found)
        return [name for name in names if not PurePosixPath(name).name.startswith(".")]  # Of a write that was cut off.

    def push(self, folder: Path, files: Sequence[str], piece: str | None = None) -> None:
        """Bring files of a folder here; ``piece`` says that they were made together and are all of it.

        Args:
            folder: That names are relative to.
            files: Names.
            piece: Of that name there is none yet.
        """
        checksums = {}
        for name in files:
            checksums[name] = sha256_of(folder / name)
            with self._reaching("written"), self._moved_to(name) as begun:
                self._files.put_file(str(folder / name), begun)
        if piece is not None:
            self.write(f"{_WHOLE}/{piece}.json", json.dumps(checksums, indent=1).encode())

    def whole(self, piece: str) -> dict[str, str] | None:
        """The files of a piece with their sha256; None where it is not all there.

        Raises:
            TinyEngramError: The list is damaged, or names files elsewhere.
        """
        content = self.read(f"{_WHOLE}/{piece}.json")
        if content is None:
            return None
        try:
            files = {str(name): str(checksum) for name, checksum in json.loads(content).items()}
        except (ValueError, AttributeError):
            files = {"..": ""}
        if any(PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts for name in files):
            raise TinyEngramError(
                f"{self.url}/{_WHOLE}/{piece}.json is no list of files. Delete it, and they are made anew."
            )
        return files

    def pieces(self) -> list[str]:
        """The names of all that are whole."""
        return [name.removesuffix(".json") for name in self.names(_WHOLE)]

    def pull(self, files: Mapping[str, str], folder: Path) -> None:
        """Bring files of a piece into a folder, each whole or not at all; those that are there already stay.

        Args:
            files: Names, with the sha256 that each must have.
            folder: That they are relative to.

        Raises:
            TinyEngramError: A file is gone, or is not what was pushed.
        """
        for name, checksum in files.items():
            path = folder / name
            if path.is_file() and sha256_of(path) == checksum:
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            begun = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
            try:
                with self._reaching("read"):
                    try:
                        self._files.get_file(self._at(name), str(begun))
                    except FileNotFoundError:
                        begun.touch()
                if sha256_of(begun) != checksum:
                    raise TinyEngramError(
                        f"{self.url}/{name} is not what was pushed there: it was deleted, changed or damaged. Delete "
                        f"what names it in {self.url}/{_WHOLE}, and it is made anew."
                    )
                os.replace(begun, path)
            finally:
                begun.unlink(missing_ok=True)

    @contextmanager
    def _moved_to(self, name: str) -> Iterator[str]:
        """A path to write to, which takes its name when it is written."""
        path = PurePosixPath(self._at(name))
        begun = str(path.with_name(f".{path.name}.{uuid.uuid4().hex}"))
        if path.parent not in self._made:
            self._files.makedirs(str(path.parent), exist_ok=True)
            self._made.add(path.parent)
        yield begun
        self._files.mv(begun, str(path))

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}"

    @contextmanager
    def _reaching(self, how: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # Each kind of storage raises errors of its own.
            raise self._unreachable(how, error, self.url) from error

    def _unreachable(self, how: str, error: Exception, url: str) -> TinyEngramError:
        said = " ".join(str(error).split())[:300]
        return TinyEngramError(
            f"The storage {url} cannot be {how} on {platform.node()} ({type(error).__name__}: {said}). See that it "
            "exists, and that this machine may read and write there."
        )
