"""A study whose nodes share no files comes to the same to the bit; what was cut off on its way counts as not made."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import pytest

from tests.study.test_crew import numbers, study
from tinyengram.errors import TinyEngramError
from tinyengram.study.apart import Apart, carry_out_apart
from tinyengram.study.plan import Study
from tinyengram.study.run import run_study
from tinyengram.study.storage import Storage
from tinyengram.study.tasks import Ask, Train, Try, order

__all__ = ["study"]  # A fixture.


@pytest.fixture(scope="module")
def short(study: Study) -> Study:
    """A study of one seed."""
    return study.model_copy(update={"seeds": [0]})


@pytest.fixture(scope="module")
def alone(short: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("alone")
    run_study(short, out)
    return out


def figures(out: Path) -> Any:
    """The numbers without names of files of scores: an adapter says under which path its node keeps the base."""

    def nameless(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: nameless(value) for key, value in part.items() if key not in ("file", "scores_file")}
        return [nameless(one) for one in part] if isinstance(part, list) else part

    return nameless(numbers(out))


class Nodes(Executor):
    """Two nodes in this process, each with a cache of its own; they take turns of ``turn`` tasks."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch, turn: int = 3, last: int = 999) -> None:
        self.orders: list[Any] = []
        self._folder, self._patch, self._turn, self._last = folder, patch, turn, last

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        if len(self.orders) == self._last:
            raise KeyboardInterrupt  # The driver dies.
        self._patch.setenv("TINYENGRAM_CACHE", str(self._folder / f"node-{len(self.orders) // self._turn % 2}"))
        self.orders.append(args[0])
        future: Future[Any] = Future()
        try:
            future.set_result(function(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        finally:
            self._patch.undo()
        return future


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Callable[..., Nodes]]:
    with pytest.MonkeyPatch.context() as patch:
        yield lambda **more: Nodes(tmp_path, patch, **more)


def test_nodes_that_share_nothing_come_to_the_same_and_a_second_driver_continues(
    short: Study, alone: Path, tmp_path: Path, nodes: Callable[..., Nodes]
) -> None:
    storage = Storage(f"file://{tmp_path}/store")
    first, second, third = nodes(last=6), nodes(), nodes()
    with pytest.raises(KeyboardInterrupt):
        run_study(short, tmp_path / "first", executor=first, storage=storage)
    shutil.rmtree(tmp_path / "first")
    run_study(short, tmp_path / "second", executor=second, storage=storage)
    assert figures(tmp_path / "second") == figures(alone)
    done = [
        (type(one.task), one.task.job)
        for one in (*first.orders, *second.orders)
        if not isinstance(one.task, Try)  # Each driver tries what it has still to train.
    ]
    assert len(done) == len(set(done)), "each piece once"
    assert not list((tmp_path / "second").rglob("*.safetensors")), "adapters stay where they are asked"
    stored = {path.name for path in (tmp_path / "store").rglob("*") if path.is_file()}
    assert not {name for name in stored if re.match(r"\.|optimizer|scheduler|rng_state|trainer_state", name)}
    assert list((tmp_path / "node-0").glob("storage/*/jobs/*")), "each node works in a folder of its own"
    assert list((tmp_path / "node-1").glob("storage/*/jobs/*"))
    run_study(short, tmp_path / "third", executor=third, storage=storage)
    assert not third.orders
    assert figures(tmp_path / "third") == figures(alone)
    # What the storage holds is itself a run folder.
    shutil.copytree(tmp_path / "store", tmp_path / "copied", ignore=lambda *_: ["whole"])
    run_study(short, tmp_path / "copied")
    assert figures(tmp_path / "copied") == figures(alone)


@pytest.fixture
def begun(short: Study, alone: Path, tmp_path: Path) -> tuple[Storage, Path]:
    """A storage that holds the study and none of its work, and the run folder beside it."""
    storage, out = Storage(f"file://{tmp_path}/store"), tmp_path / "out"
    out.mkdir()
    for name in ("inputs.json", "provenance.json", "plan.yaml"):
        shutil.copy(alone / name, out / name)
    apart = Apart(storage, out)
    apart.begin(short)
    apart.hold()
    return storage, out


def lora(alone: Path) -> Train:
    """A task of the study."""
    file = next(file for file in alone.glob("jobs/*/job.json") if '"learning_rate": 0.03' in file.read_text())
    return Train("fast", 0, None, file.parent.name)


@pytest.mark.parametrize("after", [0, 1, 5])
def test_a_push_that_is_cut_off_is_not_taken_for_whole(
    short: Study,
    alone: Path,
    tmp_path: Path,
    begun: tuple[Storage, Path],
    monkeypatch: pytest.MonkeyPatch,
    after: int,
) -> None:
    storage, out = begun
    monkeypatch.setenv("TINYENGRAM_CACHE", str(tmp_path / "node"))
    task = lora(alone)
    given, place = order(short, out, task), Apart(storage, out).place
    put, count = type(storage._files).put_file, 0

    def cut_off(files: Any, source: str, target: str, **more: Any) -> None:
        nonlocal count
        count += 1
        if count > after:
            Path(target).write_bytes(Path(source).read_bytes()[:-1])
            raise OSError(28, "No space left on device")
        put(files, source, target, **more)

    with monkeypatch.context() as patch:
        patch.setattr(type(storage._files), "put_file", cut_off)
        with pytest.raises(TinyEngramError, match=r"store cannot be written on .*No space left"):
            carry_out_apart(given, *place)
    assert storage.whole(f"jobs/{task.job}") is None
    held = {path.relative_to(tmp_path / "store").as_posix() for path in (tmp_path / "store").rglob("*.safetensors")}
    with pytest.raises(TinyEngramError, match=rf"does not hold jobs/{task.job}/checkpoint-6,"):
        carry_out_apart(order(short, out, Ask("fast", f"jobs/{task.job}/checkpoint-6", whole=True)), *place)
    Apart(storage, out).begin(short)
    assert not (out / "jobs").exists(), "and the driver takes nothing of it"
    carry_out_apart(given, *place)
    assert (storage.whole(f"jobs/{task.job}") or {}).keys() > held
    Apart(storage, out).begin(short)
    assert (out / "jobs" / task.job / "trajectory.json").is_file()


def test_a_file_that_changed_in_the_storage_is_refused(
    short: Study, alone: Path, tmp_path: Path, begun: tuple[Storage, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, out = begun
    monkeypatch.setenv("TINYENGRAM_CACHE", str(tmp_path / "one"))
    task = lora(alone)
    carry_out_apart(order(short, out, task), *Apart(storage, out).place)
    (weights,) = (tmp_path / "store").rglob("checkpoint-6/adapter_model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1])
    monkeypatch.setenv("TINYENGRAM_CACHE", str(tmp_path / "other"))
    ask = Ask("fast", f"jobs/{task.job}/checkpoint-6", whole=True)
    with pytest.raises(TinyEngramError, match=r"adapter_model\.safetensors is not what was pushed there.*store/whole"):
        carry_out_apart(order(short, out, ask), *Apart(storage, out).place)
    weights.unlink()
    with pytest.raises(TinyEngramError, match=r"it was deleted"):
        carry_out_apart(order(short, out, ask), *Apart(storage, out).place)


@pytest.mark.parametrize("content", ["{", "[1]", '{"../../x": "0"}', '{"/etc/x": "0"}'])
def test_a_list_that_names_no_files_of_the_run_folder_is_refused(tmp_path: Path, content: str) -> None:
    storage = Storage(f"file://{tmp_path}/store")
    storage.write("whole/jobs/x.json", content.encode())
    with pytest.raises(TinyEngramError, match=r"store/whole/jobs/x\.json is no list of files\. Delete it"):
        storage.whole("jobs/x")


def test_a_task_that_was_thought_lost_is_not_done_twice(
    short: Study, alone: Path, tmp_path: Path, begun: tuple[Storage, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, out = begun
    monkeypatch.setenv("TINYENGRAM_CACHE", str(tmp_path / "node"))
    given, place = order(short, out, lora(alone)), Apart(storage, out).place
    assert carry_out_apart(given, *place)
    assert carry_out_apart(given, *place) == {}


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("/mnt/x", r"'/mnt/x' is no URL\. Give one such as s3://"),
        ("nothing://x", r"nothing://x cannot be used on \S+: Protocol not known: nothing"),
        ("wandb://x", r"wandb://x cannot be used on \S+: .*wandbfs.*Every node needs"),
    ],
)
def test_a_storage_that_nothing_reads(url: str, said: str) -> None:
    with pytest.raises(TinyEngramError, match=said):
        Storage(url)


def test_a_storage_that_cannot_be_used_is_refused_before_work(short: Study, tmp_path: Path) -> None:
    def begin(where: str, out: str = "out") -> None:
        run_study(short, tmp_path / out, executor=Executor(), storage=Storage(where))

    with pytest.raises(TinyEngramError, match=r"file:///proc/x cannot be written on \S+ \("):
        begin("file:///proc/x")
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "letter.txt").write_text("Dear")
    with pytest.raises(TinyEngramError, match=r"letters is not empty and holds no study \(letter\.txt\)"):
        begin(f"file://{tmp_path}/letters")
    other = tmp_path / "other"
    for name, content in {"plan.yaml": f"{json.dumps({'name': 'other'})}\n", "inputs.json": "{}"}.items():
        (tmp_path / "made").mkdir(exist_ok=True)
        (tmp_path / "made" / name).write_text(content)
    Storage(f"file://{other}").push(tmp_path / "made", ["plan.yaml", "inputs.json"], "study")
    with pytest.raises(TinyEngramError, match=r"other holds another study: name is 'other' there, 'smoke' now"):
        begin(f"file://{other}")
    with pytest.raises(TinyEngramError, match="Give an executor"):
        run_study(short, tmp_path / "out", storage=Storage(f"file://{tmp_path}/new"))
    assert not (tmp_path / "out" / "jobs").exists()


def test_work_that_is_not_in_the_storage_is_refused(short: Study, alone: Path, tmp_path: Path) -> None:
    shutil.copytree(alone, tmp_path / "out")
    with pytest.raises(TinyEngramError, match=r"jobs/\w+ was not made by way of file://.*Choose another --out"):
        run_study(short, tmp_path / "out", executor=Executor(), storage=Storage(f"file://{tmp_path}/store"))


def test_a_node_that_does_not_reach_the_storage_says_so(
    short: Study, tmp_path: Path, begun: tuple[Storage, Path]
) -> None:
    storage, out = begun
    given, (url, identity) = order(short, out, Ask("base", None, whole=True)), Apart(storage, out).place
    shutil.move(tmp_path / "store", tmp_path / "unmounted")
    with pytest.raises(TinyEngramError, match=rf"A worker \(on \S+\) does not find the study at {re.escape(url)}\."):
        carry_out_apart(given, url, identity)
    assert not (tmp_path / "store").exists(), "and makes nothing there"
