"""Cells as tasks of a Ray cluster. A cell that a dying node or worker takes down starts again where there is room.

All nodes see the results folder under one path: a cell goes on from the state that it saved there.
"""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, redirect_stdout
from dataclasses import dataclass

from omrlbench.config import RunConfig
from omrlbench.envs.batched import usable_cores
from omrlbench.errors import BenchError
from omrlbench.launchers.worker import News, Work
from omrlbench.sweep import FAILED, LOOK, QUEUED, RUNNING, Cell

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
try:
    import ray
    from ray.exceptions import RayError, RayTaskError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
except ImportError:
    raise BenchError("ray is not installed: pip install 'omrl-bench[ray]'") from None

LOSSES = 10  # of one cell in one sweep, after which it counts as failed
OBJECT_STORE = 80 * 2**20  # bytes; cells put nothing into it
CONNECT = 10.0  # seconds until a cluster is taken to be unreachable
LOG = "ray.log"  # in the results folder: what Ray has to say


@dataclass
class Attempt:
    """A cell that Ray has."""

    cell: Cell
    task: "ray.ObjectRef"
    began: float | None = None  # when its worker was first heard of


class RayLauncher:
    """Every cell takes `cpus` and `gpus`, which may be fractions, of the cluster at `address`.

    Without an address that is a cluster of this machine alone, which ends with the sweep. Ray has at most `workers`
    cells at a time, by default all.
    """

    def __init__(
        self, work: Work, *, cpus: float, gpus: float, address: str | None = None, workers: int | None = None
    ) -> None:
        self.work, self.address, self.workers = work, address, workers
        self.resources = {"num_cpus": cpus, "num_gpus": gpus}
        self.attempts: dict[int, Attempt] = {}  # by number
        self.started = 0
        self.losses: dict[int, int] = {}  # by id of the cell
        self.leaving = ExitStack()

    def __enter__(self) -> "RayLauncher":
        self.work.results_dir.mkdir(parents=True, exist_ok=True)
        log = self.leaving.enter_context(open(self.work.results_dir / LOG, "a"))
        self.leaving.enter_context(redirect_stdout(log))
        self.leaving.callback(ray.shutdown)
        quiet = {"log_to_driver": False, "logging_level": "critical"}
        try:
            if self.address is None:
                cores = usable_cores()
                ray.init("local", num_cpus=cores, include_dashboard=False, object_store_memory=OBJECT_STORE, **quiet)
                self._check_resources()
            else:
                _check_reachable(self.address)
                ray.init(self.address, **quiet)
        except BenchError:
            self.leaving.close()
            raise
        except (OSError, ValueError, RuntimeError) as error:
            self.leaving.close()
            raise BenchError(f"no Ray cluster at {self.address}: {_one_line(error)}") from None
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self.mailbox = ray.remote(Mailbox).options(num_cpus=0, scheduling_strategy=here).remote()
        self.task = ray.remote(_work).options(max_retries=0, **self.resources)
        return self

    def __exit__(self, *exception: object) -> None:
        self.leaving.close()

    def _check_resources(self) -> None:
        """Raise BenchError where no cell would ever start. A cluster at an address may get more nodes later."""
        there = ray.cluster_resources()
        for kind, wanted in (("CPU", self.resources["num_cpus"]), ("GPU", self.resources["num_gpus"])):
            if wanted > there.get(kind, 0):
                option = f"--{kind.lower()}s"
                raise BenchError(f"{option} of a cell is at most {there.get(kind, 0):g} here, not {wanted:g}")

    @property
    def has_room(self) -> bool:
        return self.workers is None or len(self.attempts) < self.workers

    def start(self, cell: Cell) -> None:
        cell.path.parent.mkdir(parents=True, exist_ok=True)
        cell.state, cell.done = QUEUED, 0.0
        self.started += 1
        task = self.task.remote(self.started, self.mailbox, self.work, cell.config)
        self.attempts[self.started] = Attempt(cell, task)

    def listen(self) -> Iterator[Cell]:
        by_task = {attempt.task: number for number, attempt in self.attempts.items()}
        if not by_task:
            time.sleep(LOOK)
            return
        ray.wait(list(by_task), timeout=LOOK)
        ended, _ = ray.wait(list(by_task), num_returns=len(by_task), timeout=0)
        for number, news in ray.get(self.mailbox.take.remote()):
            if number in self.attempts:
                attempt = self.attempts[number]
                attempt.began = attempt.began or time.monotonic()
                attempt.cell.take_up(news)
        for attempt in self.attempts.values():
            if attempt.began:
                attempt.cell.seconds = time.monotonic() - attempt.began
        for task in ended:
            cell = self.attempts.pop(by_task[task]).cell
            cell.take_up(self._end(cell, task))
            yield cell

    def _end(self, cell: Cell, task: "ray.ObjectRef") -> News:
        try:
            return ray.get(task)
        except RayTaskError as error:
            return {"state": FAILED, "reason": _one_line(error)}
        except RayError as error:
            self.losses[id(cell)] = self.losses.get(id(cell), 0) + 1
            if self.losses[id(cell)] < LOSSES:
                return {"state": QUEUED}
            return {"state": FAILED, "reason": f"lost {LOSSES} times, now by {_one_line(error)}"}

    def stop(self) -> str:
        for attempt in self.attempts.values():
            ray.cancel(attempt.task)
            attempt.cell.state = QUEUED
        if tasks := [attempt.task for attempt in self.attempts.values()]:
            ray.wait(tasks, num_returns=len(tasks))
        return "stopped, nothing is lost; the same command goes on"


class Mailbox:
    """An actor that keeps what workers tell until the sweep takes it."""

    def __init__(self) -> None:
        self.letters: list[tuple[int, News]] = []

    def put(self, number: int, news: News) -> None:
        self.letters.append((number, news))

    def take(self) -> list[tuple[int, News]]:
        taken, self.letters = self.letters, []
        return taken


def _work(number: int, mailbox: "ray.actor.ActorHandle", work: Work, config: RunConfig) -> News:
    """What a task does: run one cell."""
    folder = config.record_path(work.results_dir).parent
    if not folder.is_dir():
        reason = f"{socket.gethostname()} does not see {folder}: --results-dir must be a folder that all nodes share"
        return {"state": FAILED, "reason": reason}
    mailbox.put.remote(number, {"state": RUNNING})
    return work.run(config, lambda news: mailbox.put.remote(number, news))


def _check_reachable(address: str) -> None:
    """Raise OSError where nobody listens at "host:port": Ray itself would try for minutes."""
    host, colon, port = address.rpartition(":")
    if host and port.isdigit() and "/" not in host:
        socket.create_connection((host, int(port)), CONNECT).close()


def _one_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()] or [""]
    return f"{type(error).__name__}: {lines[-1].strip()}" if isinstance(error, RayTaskError) else lines[0].strip()
