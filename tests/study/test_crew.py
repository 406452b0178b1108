"""Work done side by side comes to what the study comes to alone, to the bit for equal threads, whatever is lost."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tinyengram.errors import TinyEngramError
from tinyengram.sources import load_base
from tinyengram.study import executors, jobs, run
from tinyengram.study.crew import most_side_by_side
from tinyengram.study.executors import Needs, on_ray
from tinyengram.study.plan import Study, StudyError, parse_study, presets
from tinyengram.study.tasks import Ask, Train, Try, carry_out, order

SMOKE = presets()["smoke"]
LORA = {"method": "lora", "options": {"r": 4, "target_modules": "all-linear"}}


@pytest.fixture(scope="module")
def study() -> Iterator[Study]:
    """Two seeds, rates to choose from, a scaled arm, and pairs that are brought nearer, within 2%."""
    content = yaml.safe_load(SMOKE.read_text())
    content["calls"] = None
    content["truthfulqa"]["prompts"] = ["plain"]
    content |= {"seeds": [0, 1], "levels": 2}
    content["training"] |= {"max_steps": 6, "eval_every": 6}
    content["arms"] = {
        "lora": {**LORA, "rates": [1e-5, 5e-4]},
        "fast": {**LORA, "training": {"learning_rate": 3e-2}},
        "twin": {**LORA, "training": {"learning_rate": 3e-2}},  # One job with it.
        "scaled": {"wise_ft": {"of": "fast", "scales": [0.25, 0.5]}},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tinyengram.study.matching.CLOSE", 0.02)
        yield parse_study(content, SMOKE)


class Here(Executor):
    """Runs tasks in this process, at once; the ``lost``th of them is lost with its worker, a ``refused`` one before."""

    def __init__(self, lost: tuple[int, ...] = (), refused: tuple[int, ...] = ()) -> None:
        self.orders: list[Any] = []
        self._lost, self._refused = lost, refused

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.orders.append(args[0])
        if len(self.orders) in self._refused:
            raise BrokenExecutor("the pool broke")
        future: Future[Any] = Future()
        if len(self.orders) in self._lost:
            future.set_exception(BrokenExecutor("it was killed"))
        else:
            try:
                future.set_result(function(*args, **kwargs))
            except Exception as error:
                future.set_exception(error)
        return future


def numbers(out: Path) -> Any:
    """All that a run came to, without times and the commit of the code."""

    def timeless(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: timeless(value) for key, value in part.items() if key not in ("seconds", "created", "commit")}
        return [timeless(one) for one in part] if isinstance(part, list) else part

    return timeless(json.loads((out / "results.json").read_text()))


@pytest.fixture(scope="module")
def alone(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("alone")
    run.run_study(study, out)
    return out


def test_a_crew_leaves_nothing_to_do_and_the_same_results(
    study: Study, alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    executor = Here(lost=(2, 9))
    monkeypatch.setattr(jobs, "run_job", lambda *_, **__: pytest.fail("the study itself trained"))
    monkeypatch.setattr(run.Scorer, "model", _only_of_tasks(run.Scorer.model))
    run.run_study(study, tmp_path / "out", lambda event: said.append(getattr(event, "text", "")), executor)
    assert numbers(tmp_path / "out") == numbers(alone)
    tasks = [str(one.task) for one in executor.orders]
    kinds = [(type(one.task), one.task.job) for one in executor.orders]
    assert len(kinds) - len(set(kinds)) == 2, "each piece once, but for the two that were lost"
    assert {re.sub(r"\d", "n", task) for task in tasks if task.startswith(("Trained", "Scaled", "Looked"))} >= {
        "Trained lora, seed n, learning rate ne-nn",
        "Trained fast, seed n",
        "Scaled fast, seed n, for scaled",
        "Looked between stops of fast, seed n",
    }
    assert sum("A worker was lost (it was killed)" in line for line in said) == 2
    assert all(any(f"{task} (" in line for line in said) for task in tasks)
    again = Here()
    run.run_study(study, tmp_path / "out", executor=again)
    assert not again.orders, "what is there is not ordered again"


def _only_of_tasks(model: Callable[..., Any]) -> Callable[..., Any]:
    """Loads a checkpoint only for a scorer that a task made; the study's own tells what it does."""

    def load(scorer: Any, checkpoint: Path | None) -> Any:
        if scorer._on_event.__name__ != "_silent":
            pytest.fail("the study itself asked")
        return model(scorer, checkpoint)

    return load


def test_workers_that_are_lost_again_and_again_are_given_up(study: Study, tmp_path: Path) -> None:
    with pytest.raises(TinyEngramError, match=r"lost 4 times \(it was killed\).*Give fewer workers"):
        run.run_study(study, tmp_path / "out", executor=Here(lost=tuple(range(1, 99))))


def test_an_arm_that_cannot_be_used_is_refused_before_any_is_trained(study: Study, tmp_path: Path) -> None:
    content = study.model_dump()
    broken = {"method": "lora", "options": {"lora_alpha": 1e40}, "training": {"learning_rate": 1e-3}}
    content["arms"]["broken"] = broken
    executor = Here()
    with pytest.raises(StudyError, match=r"Arm 'broken' \(lora\)"):
        run.run_study(Study.model_validate(content), tmp_path / "out", executor=executor)
    assert {type(one.task) for one in executor.orders} == {Try}
    assert not (tmp_path / "out" / "jobs").exists()


def test_a_pool_that_breaks_while_tasks_are_handed_out_is_a_lost_worker(study: Study, tmp_path: Path) -> None:
    executor, said = Here(refused=(1, 3)), []
    fast = {"lora": study.arms["fast"], "fast": study.arms["fast"]}
    quick = study.model_copy(update={"seeds": [0], "levels": 1, "arms": fast})
    run.run_study(quick, tmp_path / "out", lambda event: said.append(getattr(event, "text", "")), executor)
    assert sum("A worker was lost (the pool broke)" in line for line in said) == 2
    kinds = [type(one.task).__name__ for one in executor.orders]
    assert kinds == ["Try"] * 4 + ["Ask", "Train", "Ask"], "what was handed out before is not done again"
    assert (tmp_path / "out" / "results.json").is_file()
    with pytest.raises(TinyEngramError, match=r"lost 4 times \(the pool broke\), with 2 of 2 tasks left"):
        run.run_study(quick, tmp_path / "other", executor=Here(refused=tuple(range(1, 9))))


def test_processes_are_no_more_than_cores_tasks_and_memory_hold(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executors, "cores_here", lambda: 64)
    with pytest.raises(TinyEngramError, match=r"--workers 65: .* 64 cores.*Give at most 64\."):
        executors.Processes(65, at_once=99)
    assert most_side_by_side(study) == 2 * (2 * 2 * 3 + 1), "checkpoints at two levels in two seeds"
    one_arm = {"seeds": [0], "levels": 1, "arms": {"lora": study.arms["lora"]}}
    assert most_side_by_side(study.model_copy(update=one_arm)) == 3, "two rates, and the base"
    pool = executors.Processes(64, at_once=5)
    assert pool.workers == 5
    base = load_base("tiny-random-llama")
    monkeypatch.setattr(executors, "free_memory", lambda: 5 * 2**29)
    with pytest.raises(TinyEngramError, match=r"--workers 5: .*0\.5 GiB at least, and 2\.5 GiB are free.*at most 4\."):
        pool.refuse_too_large(base)
    monkeypatch.setattr(executors, "free_memory", lambda: 6 * 2**29)
    pool.refuse_too_large(base)


def test_what_a_task_cannot_do_is_said_by_name(study: Study, tmp_path: Path) -> None:
    given = order(study, tmp_path / "elsewhere", Ask("base", None, whole=True))
    with pytest.raises(TinyEngramError, match=r"does not see the run folder .*elsewhere.*every node shares"):
        carry_out(given)
    (tmp_path / "plan.yaml").write_text("")
    other = dataclasses.replace(
        order(study, tmp_path, Train("lora", 0, None, "0")), versions={**given.versions, "transformers": "4.0"}
    )
    with pytest.raises(TinyEngramError, match=r"other versions than the study: transformers \S+ in place of 4\.0\."):
        carry_out(other)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere.invalid:6379", "6379", "10.0.0.1:", "ray"])
def test_an_address_where_no_ray_is(address: str) -> None:
    with pytest.raises(TinyEngramError, match=rf"{re.escape(address)}.*(ray start --head|Give host:port)"):
        on_ray(address, Needs(1, 0, 1))


# --- real processes and nodes --------------------------------------------------------------------------------------


def command(out: Path, *more: object) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-m", "tinyengram", "compare", "smoke", "--out", str(out), *map(str, more)]
    return subprocess.Popen(
        arguments,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


def lines(process: subprocess.Popen[str]) -> Iterator[str]:
    assert process.stderr is not None
    while line := process.stderr.readline():  # `yield from` would close it with the generator.
        yield line


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("smoke")
    process = command(out)
    said = list(lines(process))
    assert process.wait() == 0, said
    return out


@pytest.mark.slow
def test_a_killed_process_of_several_costs_its_work_alone(smoke: Path, tmp_path: Path) -> None:
    process, lost = command(tmp_path / "out", "--workers", 2), 0
    for line in lines(process):
        if "(1 of 3)" in line:
            children = psutil.Process(process.pid).children(recursive=True)
            next(one for one in children if "spawn_main" in " ".join(one.cmdline())).kill()
        lost += "A worker was lost" in line
    assert (process.wait(), lost) == (0, 1)
    assert numbers(tmp_path / "out") == numbers(smoke)


@pytest.mark.slow
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_the_command_and_it_continues(smoke: Path, tmp_path: Path, ending: signal.Signals) -> None:
    process = command(tmp_path / "out", "--workers", 2)
    for line in lines(process):
        if "(1 of 3)" in line:
            workers = psutil.Process(process.pid).children(recursive=True)
            os.killpg(process.pid, ending) if ending == signal.SIGINT else process.kill()
            break
    assert process.wait(timeout=10) in (130, -signal.SIGKILL)
    assert not psutil.wait_procs(workers, timeout=10)[1]
    again = command(tmp_path / "out", "--workers", 2)
    said = list(lines(again))
    assert again.wait() == 0, said
    assert numbers(tmp_path / "out") == numbers(smoke)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A Ray cluster of two nodes of one CPU."""
    utilities = pytest.importorskip("ray.cluster_utils")
    made = utilities.Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    made.second = made.add_node(num_cpus=1)
    yield made
    made.shutdown()


@pytest.mark.slow
def test_a_node_that_is_killed_costs_its_work_alone(smoke: Path, tmp_path: Path, cluster: Any) -> None:
    process = command(tmp_path / "out", "--ray", cluster.address, "--memory", 1)
    killed, said = False, []
    for line in lines(process):
        said.append(line)
        if "(1 of 3)" in line:
            cluster.remove_node(cluster.second, allow_graceful=False)
            killed = True
            cluster.second = cluster.add_node(num_cpus=1)
    assert (process.wait(), killed) == (0, True), said
    assert numbers(tmp_path / "out") == numbers(smoke)


@pytest.mark.slow
def test_nodes_of_a_cluster_go_through_a_storage(smoke: Path, tmp_path: Path, cluster: Any) -> None:
    process = command(
        tmp_path / "out", "--ray", cluster.address, "--memory", 1, "--storage", (tmp_path / "store").as_uri()
    )
    said = list(lines(process))
    assert process.wait() == 0, said
    assert numbers(tmp_path / "out") == numbers(smoke)
    assert list((tmp_path / "store").rglob("*.safetensors"))
    assert not list((tmp_path / "out").rglob("*.safetensors"))


@pytest.mark.slow
def test_an_error_on_a_node_is_said_in_its_own_words(cluster: Any) -> None:
    given = order(
        parse_study(yaml.safe_load(SMOKE.read_text()), SMOKE), Path("/nowhere"), Ask("base", None, whole=True)
    )
    with on_ray(cluster.address, Needs(1, 0, 0.5)) as executor, pytest.raises(TinyEngramError) as error:
        executor.submit(carry_out, given).result()
    assert re.fullmatch(r"A worker \(on \S+\) does not see the run folder /nowhere\. .*", str(error.value))


@pytest.mark.slow
def test_what_no_node_has_is_refused_before_work(tmp_path: Path, cluster: Any) -> None:
    process = command(tmp_path / "out", "--ray", cluster.address, "--gpus", 1, "--memory", 1)
    said = " ".join(lines(process))
    assert process.wait() == 2
    assert re.search(
        r"No node .* has what each job asks for: 1 CPUs, 1 GPUs, 1\.0 GiB .*There are: 1 CPUs, 0 GPUs", said
    )
    assert not (tmp_path / "out").exists()
