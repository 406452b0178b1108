"""A study whose nodes share no file system: what each task needs and makes goes through a storage.

The storage holds what the run folder holds, and the adapters, which the run folder then does not: they travel to the
nodes that ask them. A task works in a folder of its node's cache. What it made is pushed as one piece when it is done,
so that one that was lost is done again, and another process with an empty run folder continues the study.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path, PurePosixPath

import yaml

from tinyengram.errors import TinyEngramError
from tinyengram.files import sha256_of, write_atomically
from tinyengram.scoring.asked import asked_file
from tinyengram.scoring.checkpoints import known_as
from tinyengram.sources.provenance import cache_dir
from tinyengram.study.plan import Study, StudyError
from tinyengram.study.storage import Storage
from tinyengram.study.tasks import Ask, Close, Order, Scale, Task, Train, Try, carry_out
from tinyengram.training.job import first_difference
from tinyengram.training.trajectory import read_trajectory

_STUDY = "study"
_FIRST_FILES = ("inputs.json", "provenance.json", "plan.yaml")
_SECONDS = "seconds.json"
_LAST_FILES = ("results.json", "report.html", _SECONDS)
_ADAPTER = "adapter_"


class Apart:
    """The run folder of a study and the storage beside it.

    Args:
        storage: Reached by every node.
        out: Run folder, which only this process sees.
    """

    def __init__(self, storage: Storage, out: Path) -> None:
        self._storage, self._out = storage, out

    def begin(self, study: Study) -> None:
        """Take into the run folder what was made of the study before, by whatever process.

        Raises:
            TinyEngramError: The storage cannot be written, or holds another study or something else; or the run folder
                holds work that is not in it.
        """
        storage, url = self._storage, self._storage.url
        storage.check_writable()
        begun = storage.whole(_STUDY)
        if begun is None:
            if other := [name for name in storage.names() if name not in _FIRST_FILES]:
                raise StudyError(
                    f"{url} is not empty and holds no study ({other[0]}). Choose another --storage; nothing in it was "
                    "changed."
                )
        else:
            changed = first_difference(
                yaml.safe_load(storage.read("plan.yaml") or b"{}"), study.model_dump(mode="json")
            )
            if changed:
                raise StudyError(
                    f"{url} holds another study: {changed}. Choose another --storage; nothing in it was changed."
                )
        pieces = storage.pieces()
        self._refuse_other_work(pieces)
        for piece in pieces:
            self._take(piece)
        times = storage.read(_SECONDS)
        if times is not None and not (self._out / _SECONDS).exists():
            write_atomically(self._out / _SECONDS, times)

    def hold(self) -> None:
        """Have the storage hold the study, whose plan and inputs are in the run folder."""
        if self._storage.whole(_STUDY) is None:
            self._storage.push(self._out, _FIRST_FILES, _STUDY)

    @cached_property
    def place(self) -> tuple[str, str]:
        """The URL of the storage, and by what a node knows that it is the same one."""
        return self._storage.url, _identity(self._storage)

    def take(self, task: Task) -> None:
        """Bring into the run folder what a task made, but for adapters."""
        self._take(_piece(task))
        if (self._out / _SECONDS).exists():
            self._storage.push(self._out, [_SECONDS])

    def finish(self) -> None:
        """Bring what the study came to into the storage."""
        self._storage.push(self._out, _LAST_FILES)

    def _take(self, piece: str) -> None:
        files = self._storage.whole(piece) or {}
        light = {name: held for name, held in files.items() if not PurePosixPath(name).name.startswith(_ADAPTER)}
        self._storage.pull(light, self._out)

    def _refuse_other_work(self, pieces: list[str]) -> None:
        for file in sorted(self._out.glob("jobs/*/trajectory.json")):
            piece, name = f"jobs/{file.parent.name}", file.relative_to(self._out).as_posix()
            held = (self._storage.whole(piece) or {}) if piece in pieces else {}
            if held.get(name) != sha256_of(file):
                raise StudyError(
                    f"{file.parent} was not made by way of {self._storage.url}, where the nodes would not find it. "
                    "Choose another --out (an empty one takes what is in the storage), or leave --storage out."
                )


def carry_out_apart(given: Order, url: str, identity: str) -> dict[str, float]:
    """Do what an order says on a node that has nothing but the storage; seconds by phase.

    Args:
        given: The order; its run folder is another machine's.
        url: Of the storage.
        identity: Of what it holds.

    Raises:
        TinyEngramError: This node does not reach the storage, or finds something else there; or see
            :func:`tinyengram.study.tasks.carry_out`.
    """
    storage, task = Storage(url), given.task
    if _identity(storage) != identity:
        raise TinyEngramError(
            f"A worker (on {platform.node()}) does not find the study at {url}. Give a --storage that is the same for "
            "every node; memory:// and unmounted folders are each node's own."
        )
    tries = isinstance(task, Try)  # Which makes nothing, and is done wherever it is asked for.
    if not tries and storage.whole(_piece(task)) is not None:  # By one that was thought lost.
        return {}
    folder = cache_dir() / "storage" / hashlib.sha256(f"{url} {identity}".encode()).hexdigest()[:16]
    storage.pull(storage.whole(_STUDY) or {}, folder)
    for checkpoint in _needed(task):
        made_with = storage.whole(checkpoint) or storage.whole(str(PurePosixPath(checkpoint).parent)) or {}
        files = {name: held for name, held in made_with.items() if name.startswith(f"{checkpoint}/")}
        if not files:
            raise TinyEngramError(
                f"{url} does not hold {checkpoint}, which is to be asked: it was deleted there. Choose an empty "
                "--out, and it is made anew."
            )
        storage.pull(files, folder)
    seconds = carry_out(replace(given, out=str(folder)))
    if tries:
        return seconds
    files_made = [path.relative_to(folder).as_posix() for path in _made(task, folder)]
    if storage.whole(_piece(task)) is None:
        storage.push(folder, files_made, _piece(task))
    return seconds


def _identity(storage: Storage) -> str:
    """Of what a storage holds: no two begin in the same moment with the same inputs."""
    return hashlib.sha256(json.dumps(storage.whole(_STUDY)).encode()).hexdigest()[:16]


def _piece(task: Task) -> str:
    """What a task makes is called."""
    if isinstance(task, Ask):
        return f"scores/{task.checkpoint or 'base'}-{'whole' if task.whole else 'level'}"
    return f"jobs/{task.run.job}/{Path(task.job).name}" if isinstance(task, Close) else f"jobs/{task.job}"


def _needed(task: Task) -> list[str]:
    """The checkpoints that a task reads."""
    if isinstance(task, Ask):
        return [] if task.checkpoint is None else [task.checkpoint]
    if isinstance(task, Scale):
        return [f"jobs/{task.source.job}/{task.source.points[-1].checkpoint}"]
    if isinstance(task, Close):
        index = task.run.points.index(task.pair.other)
        around = task.run.points[index - 1 : index + 1]
        return [f"jobs/{task.run.job}/{point.checkpoint}" for point in around if point.checkpoint is not None]
    return []


def _made(task: Task, out: Path) -> Iterator[Path]:
    """The files that a task made in a folder, the one that names the others last."""
    if isinstance(task, Ask):
        adapter = "base" if task.checkpoint is None else known_as(out / task.checkpoint, out)
        for file in sorted((out / "scores").glob(f"*-{adapter}.json")):
            yield file
            yield out / asked_file(file.relative_to(out).as_posix())
    elif isinstance(task, Close):
        folder = out / "jobs" / task.run.job / Path(task.job).name
        if folder.exists():
            yield from _adapter(folder, out)
            yield folder / "point.json"
        else:
            yield folder.with_name(f"{folder.name}.none")
    else:
        yield from _run(out / "jobs" / task.job, out, described=isinstance(task, Train))


def _run(folder: Path, out: Path, described: bool) -> Iterator[Path]:
    trajectory = read_trajectory(folder)
    assert trajectory is not None
    if described:
        yield folder / "job.json"
    for point in trajectory.points:
        if point.checkpoint is not None:
            yield from _adapter(folder / point.checkpoint, out)
    yield folder / "trajectory.json"


def _adapter(checkpoint: Path, out: Path) -> Iterator[Path]:
    """Of a checkpoint what it is asked with, and what it is known by where it is not."""
    known_as(checkpoint, out)
    yield checkpoint.with_name(f"{checkpoint.name}.key")
    yield from sorted(checkpoint.glob(f"{_ADAPTER}*"))
