"""Where the tasks of a study run: in processes of this machine, or on a Ray cluster."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from typing import TYPE_CHECKING, Any

from tinyengram.errors import TinyEngramError
from tinyengram.hardware import cores_here, free_memory

if TYPE_CHECKING:
    from tinyengram.sources import Base

_SECONDS_TO_CONNECT = 5
_SECONDS_TO_ANSWER = 30
_MOST_RETRIES = 3
# What Python, torch and transformers take before there is a model, and some room for activations.
_BYTES_OF_A_PROCESS = 2**29


class Processes(Executor):
    """Processes of this machine, which share its cores and, one after the other, its accelerators.

    When one of them is killed all of its siblings end (``BrokenExecutor``), and the next task begins with new ones. All
    end with this process, however it ends.

    Args:
        workers: How many; each computes with as many threads as this process.
        at_once: How many tasks there are at once at most: there are no more processes than that.

    Attributes:
        workers: How many there are at most.

    Raises:
        TinyEngramError: They are more than the cores that this process may use.
    """

    def __init__(self, workers: int, at_once: int) -> None:
        if workers > (cores := cores_here()):
            raise TinyEngramError(
                f"--workers {workers}: this process may use {cores} cores, which more processes would only share, each "
                f"with a base of its own in memory. Give at most {cores}."
            )
        self.workers = min(workers, at_once)
        self._pool: ProcessPoolExecutor | None = None

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        if self._pool is not None:
            try:
                return self._pool.submit(function, *args, **kwargs)
            except BrokenExecutor:
                self._pool = None
        self._pool = self._new()
        return self._pool.submit(function, *args, **kwargs)

    def refuse_too_large(self, base: Base) -> None:
        """Refuse what memory cannot hold for certain: each process has the base, and a copy that it trains or asks.

        Raises:
            TinyEngramError: They need more than is free.
        """
        each = 2 * sum(part.numel() * part.element_size() for part in base.model.parameters()) + _BYTES_OF_A_PROCESS
        free = free_memory()
        if self.workers > 1 and self.workers * each > free:
            raise TinyEngramError(
                f"--workers {self.workers}: each holds the base and a copy to train, {each / 2**30:.1f} GiB at least, "
                f"and {free / 2**30:.1f} GiB are free. Give at most {max(1, int(free // each))}."
            )

    def _new(self) -> ProcessPoolExecutor:
        import torch

        context = get_context("spawn")  # A forked process cannot use CUDA.
        numbers = context.Queue()
        for number in range(self.workers):
            numbers.put(number)
        threads = torch.get_num_threads()
        return ProcessPoolExecutor(self.workers, context, initializer=_begin, initargs=(numbers, threads))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait, cancel_futures=cancel_futures)
        self._pool = None


def share_threads(workers: int) -> None:
    """Have this process compute with its share of the threads alone."""
    import torch

    torch.set_num_threads(max(1, torch.get_num_threads() // workers))


def _begin(numbers: Any, threads: int) -> None:
    """Take this process's share of the machine, and end when it is told to or who began it has ended."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # At once: what is written is whole, and jobs continue.
    threading.Thread(target=_end_with_parent, daemon=True).start()
    number = numbers.get()
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    import torch

    devices = visible or [str(index) for index in range(torch.cuda.device_count())]
    if len(devices) > 1:  # Read when CUDA is first used, which counting is not.
        os.environ["CUDA_VISIBLE_DEVICES"] = devices[number % len(devices)]
    torch.set_num_threads(threads)
    _quiet()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _quiet() -> None:
    from tinyengram.cli.progress import prepare_process

    prepare_process()


@dataclass(frozen=True)
class Needs:
    """What each task asks a Ray cluster for.

    Attributes:
        cpus, gpus: Of one node; parts of one are possible.
        memory_gib: Of that node.
    """

    cpus: float
    gpus: float
    memory_gib: float


def on_ray(address: str, needs: Needs) -> Executor:
    """Tasks on a Ray cluster; one that is lost with its worker or node is run again by Ray.

    Args:
        address: ``host:port``, or ``auto`` for the cluster that this machine belongs to.
        needs: What each task asks for.

    Raises:
        TinyEngramError: Ray is not installed, no cluster answers, or no node has what a task asks for.
    """
    try:
        import ray
    except ImportError as error:
        raise TinyEngramError("--ray needs Ray: pip install 'tinyengram[ray]'.") from error
    if needs.gpus > 1 and needs.gpus != int(needs.gpus):
        raise TinyEngramError(
            f"--gpus {needs.gpus:g}: Ray gives a part of one GPU, or whole ones. Give {needs.gpus:.0f}."
        )
    _refuse_silent(address)
    try:
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False, ignore_reinit_error=True)
    except (ConnectionError, RuntimeError) as error:
        raise _no_cluster(address, " ".join(str(error).split())[:300]) from error
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    asked = {"CPU": needs.cpus, "GPU": needs.gpus, "memory": needs.memory_gib * 2**30}
    if not any(all(node.get(name, 0) >= amount for name, amount in asked.items()) for node in nodes):
        most = ", ".join(
            f"{node.get('CPU', 0):g} CPUs, {node.get('GPU', 0):g} GPUs, {node.get('memory', 0) / 2**30:.1f} GiB"
            for node in nodes
        )
        ray.shutdown()
        raise TinyEngramError(
            f"No node of the cluster at {address} has what each job asks for: {needs.cpus:g} CPUs, {needs.gpus:g} "
            f"GPUs, {needs.memory_gib:.1f} GiB (--cpus, --gpus, --memory). There are: {most}. Ask for less, or "
            "add a node."
        )
    return RayExecutor(needs)


def _refuse_silent(address: str) -> None:
    """Refuse at once an address where nothing listens: Ray itself tries for a minute."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if address in ("auto", "local"):
        return
    if not host or not port.isdigit():
        raise TinyEngramError(f"--ray {address!r} is no address. Give host:port, such as 10.0.0.1:6379, or auto.")
    try:
        socket.create_connection((host, int(port)), timeout=_SECONDS_TO_CONNECT).close()
    except (OSError, OverflowError) as error:
        raise _no_cluster(address, str(error)) from error
    if address.startswith("ray://"):
        return
    asked = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", address]
    try:
        healthy = subprocess.run(asked, capture_output=True, timeout=_SECONDS_TO_ANSWER, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        healthy = False
    if not healthy:
        raise _no_cluster(address, "what listens there is no Ray")


def _no_cluster(address: str, reason: str) -> TinyEngramError:
    return TinyEngramError(
        f"No Ray cluster answers at {address} ({reason}). Begin one with `ray start --head --port=6379` and give its "
        "host:port."
    )


class RayExecutor(Executor):
    """Ray's tasks as futures of Python; ``ray.init`` was called before."""

    def __init__(self, needs: Needs) -> None:
        self._needs = needs
        self._refs: list[Any] = []

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        import ray

        remote: Any = ray.remote(
            num_cpus=round(self._needs.cpus, 4),
            num_gpus=round(self._needs.gpus, 4),
            memory=int(self._needs.memory_gib * 2**30),
            max_retries=_MOST_RETRIES,
        )
        ref = remote(_on_a_node).remote(function, *args, **kwargs)
        self._refs.append(ref)
        told: Future[Any] = Future()
        ref.future().add_done_callback(lambda found: _tell(told, found))
        return told

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Cancel what waits, and leave the cluster."""
        import ray

        if cancel_futures:
            for ref in self._refs:
                ray.cancel(ref, force=False)
        ray.shutdown()


def _tell(told: Future[Any], found: Future[Any]) -> None:
    """What became of a task, with the error that it raised itself and not Ray's account of it."""
    from ray.exceptions import RayError, RayTaskError

    if not told.set_running_or_notify_cancel():
        return
    error = found.exception()
    if error is None:
        told.set_result(found.result())
    elif isinstance(error, RayTaskError):
        told.set_exception(error.cause)
    elif isinstance(error, RayError):  # A worker or node that was lost more often than Ray runs a task again.
        told.set_exception(BrokenExecutor(str(error).strip().splitlines()[0]))
    else:
        told.set_exception(error)


def _on_a_node(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    _quiet()
    return function(*args, **kwargs)
