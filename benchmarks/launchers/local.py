"""Cells in worker processes of this machine, each pinned to cores of its own and heard through a pipe."""

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

from omrlbench.config import RunConfig
from omrlbench.launchers.worker import News, Work
from omrlbench.process import keyboard_withheld
from omrlbench.sweep import FAILED, LOOK, QUEUED, RUNNING, Cell


@dataclass
class Worker:
    """A process that runs a cell."""

    cell: Cell
    process: SpawnProcess
    pipe: Connection
    cores: tuple[int, ...]
    began: float = field(default_factory=time.monotonic)


class LocalLauncher:
    """`workers` cells at a time, each in a process of its own."""

    def __init__(self, work: Work, workers: int) -> None:
        self.work = work
        self.free = core_groups(workers)
        self.running: list[Worker] = []

    def __enter__(self) -> "LocalLauncher":
        self.work.results_dir.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    @property
    def has_room(self) -> bool:
        return bool(self.free)

    def start(self, cell: Cell) -> None:
        context, cores = multiprocessing.get_context("spawn"), self.free.pop()
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(theirs, cores, self.work, cell.config))
        with keyboard_withheld():
            process.start()
        theirs.close()
        cell.state, cell.done = RUNNING, 0.0
        self.running.append(Worker(cell, process, ours, cores))

    def listen(self) -> Iterator[Cell]:
        wait([worker.pipe for worker in self.running] + [worker.process.sentinel for worker in self.running], LOOK)
        for worker in list(self.running):
            if not _listen(worker):
                self.running.remove(worker)
                self.free.append(worker.cores)
                yield worker.cell

    def stop(self) -> str:
        for worker in self.running:
            worker.process.terminate()
            worker.pipe.close()  # a worker that waits for a reader is told that there is none
        for worker in self.running:
            worker.process.join()
            worker.cell.state = QUEUED
        self.running = []
        return "stopped, nothing is lost; the same command goes on"


def core_groups(workers: int) -> list[tuple[int, ...]]:
    """The cores of each worker: the process's own, shared out; empty tuples where the system has no such thing."""
    if not hasattr(os, "sched_getaffinity"):
        return [()] * workers
    cores = sorted(os.sched_getaffinity(0))
    if workers >= len(cores):
        return [(cores[k % len(cores)],) for k in range(workers)]
    return [tuple(cores[k::workers]) for k in range(workers)]


def _work(pipe: Connection, cores: tuple[int, ...], work: Work, config: RunConfig) -> None:
    """What a worker does: run one cell, and send what there is to know of it."""
    if cores:
        os.sched_setaffinity(0, cores)

    def tell(news: News) -> None:
        try:
            pipe.send(news)
        except OSError:  # the sweep is gone: save the state and end
            os.kill(os.getpid(), signal.SIGTERM)

    tell(work.run(config, tell))


def _listen(worker: Worker) -> bool:
    """Take up what a worker says; False once it has ended."""
    cell = worker.cell
    cell.seconds = time.monotonic() - worker.began
    alive = worker.process.is_alive()
    try:
        while worker.pipe.poll():
            cell.take_up(worker.pipe.recv())
    except EOFError:
        pass
    if alive:
        return True
    worker.process.join()
    worker.pipe.close()
    if cell.state == RUNNING:
        cell.state, cell.reason = FAILED, f"its process ended with exit code {worker.process.exitcode}"
    return False
