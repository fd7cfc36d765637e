"""Running a suite: its unfinished cells in worker processes, each resumable by itself.

A worker is a process of its own that runs one cell (`training.run`) and says how far it is through a pipe. Whatever
dies, worker or sweep, the same command goes on: a cell keeps its state beside its record, and the lock of a cell is the
operating system's.
"""

import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from omrlbench.config import RunConfig
from omrlbench.errors import BenchError, Interrupted, RunBusy
from omrlbench.process import StopSignal, keyboard_withheld
from omrlbench.record import read_record
from omrlbench.suite import suite_cells

BUSY_WAIT = 5.0  # seconds until a cell that another process has is looked at again
LOOK = 1.0  # seconds between two looks at the workers

QUEUED, RUNNING, ELSEWHERE = "queued", "running", "another process"  # states of a cell
FINISHED, DIVERGED, FAILED = "finished", "diverged", "failed"


@dataclass
class Cell:
    """One run of a suite, and what is known of it."""

    variant: str
    config: RunConfig
    path: Path  # of its record
    state: str = QUEUED
    score: float | None = None
    done: float = 0.0  # share of the updates of its present stage
    stage: str | None = None
    seconds: float = 0.0  # that it has taken in this sweep
    reason: str | None = None  # why it failed, one line

    @property
    def ended(self) -> bool:
        return self.state in (FINISHED, DIVERGED, FAILED)

    @property
    def name(self) -> str:
        c = self.config
        variant = "" if self.variant == "default" else f" ({self.variant})"
        return f"{c.algo} on {c.env}, {c.level}{variant}, seed {c.seed}"

    def look(self) -> None:
        """Take up the record, if there is one; a damaged one is a failure."""
        if not self.path.exists():
            return
        try:
            record = read_record(self.path)
        except BenchError as error:
            self.state, self.reason = FAILED, str(error)
        else:
            self.state, self.score = record.status, record.result["score"]


def find_cells(suite: str, results_dir: Path, only: dict[str, str] | None = None) -> list[Cell]:
    """The cells of a suite with what their records say, of which `only` those whose config has these values.

    Raises BenchError for an unknown suite or key, and where no cell is left.
    """
    cells = [Cell(variant, config, config.record_path(results_dir)) for variant, config in suite_cells(suite)]
    for key, value in (only or {}).items():
        if key not in ("env", "algo", "level", "seed", "variant"):
            raise BenchError(f"--only takes env, algo, level, seed and variant, not {key!r}")
        values = {str(_value(cell, key)) for cell in cells}
        cells = [cell for cell in cells if str(_value(cell, key)) == value]
        if not cells:
            raise BenchError(f"no cell of {suite} has {key}={value}, there are {', '.join(sorted(values))}")
    for cell in cells:
        cell.look()
    return cells


def _value(cell: Cell, key: str) -> Any:
    return cell.variant if key == "variant" else getattr(cell.config, key)


@dataclass
class Worker:
    """A process that runs a cell."""

    cell: Cell
    process: SpawnProcess
    pipe: Connection
    cores: tuple[int, ...]
    began: float = field(default_factory=time.monotonic)


def sweep(
    cells: Sequence[Cell],
    results_dir: Path,
    data_dir: Path | None,
    workers: int,
    argv: Sequence[str],
    on_change: Callable[[Cell | None], None] = lambda cell: None,
) -> None:
    """Run every cell that has no record, `workers` at a time; their states tell how it went. Records hold `argv`.

    `on_change` is told the cell whose state has changed, and None every now and then. A failing cell does not stop the
    others. Raises Interrupted after SIGINT or SIGTERM, as soon as the workers have saved their states.
    """
    context = multiprocessing.get_context("spawn")
    free = core_groups(workers)
    running: list[Worker] = []
    later: dict[int, float] = {}  # when a cell that another process has is tried again
    with StopSignal() as stop:
        while not stop.requested and (running or not all(cell.ended for cell in cells)):
            for cell in cells:
                if not free:
                    break
                if cell.state in (QUEUED, ELSEWHERE) and time.monotonic() >= later.get(id(cell), 0.0):
                    running.append(_start(context, cell, free.pop(), results_dir, data_dir, argv))
                    on_change(cell)
            wait([worker.pipe for worker in running] + [worker.process.sentinel for worker in running], LOOK)
            for worker in list(running):
                if not _listen(worker):
                    running.remove(worker)
                    free.append(worker.cores)
                    if worker.cell.state == ELSEWHERE:
                        later[id(worker.cell)] = time.monotonic() + BUSY_WAIT
                    on_change(worker.cell)
            on_change(None)
        if stop.requested:
            _stop(running)
            raise Interrupted("stopped, nothing is lost; the same command goes on")


def core_groups(workers: int) -> list[tuple[int, ...]]:
    """The cores of each worker: the process's own, shared out; empty tuples where the system has no such thing."""
    if not hasattr(os, "sched_getaffinity"):
        return [()] * workers
    cores = sorted(os.sched_getaffinity(0))
    if workers >= len(cores):
        return [(cores[k % len(cores)],) for k in range(workers)]
    return [tuple(cores[k::workers]) for k in range(workers)]


def _start(context, cell: Cell, cores: tuple[int, ...], results_dir: Path, *arguments: Any) -> Worker:
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(theirs, cores, cell.config, results_dir, *arguments))
    with keyboard_withheld():
        process.start()
    theirs.close()
    cell.state, cell.done = RUNNING, 0.0
    return Worker(cell, process, ours, cores)


def _work(
    pipe: Connection,
    cores: tuple[int, ...],
    config: RunConfig,
    results_dir: Path,
    data_dir: Path | None,
    argv: Sequence[str],
) -> None:
    """What a worker does: run one cell, and send what there is to know of it as values of `Cell`."""
    from omrlbench import training

    if cores:
        os.sched_setaffinity(0, cores)

    def send(**news: Any) -> None:
        try:
            pipe.send(news)
        except OSError:  # the sweep is gone: save the state and end
            os.kill(os.getpid(), signal.SIGTERM)

    def on_progress(now: training.Progress) -> None:
        send(done=now.step / now.steps, stage=now.stage, score=now.score)

    try:
        record = training.run(config, results_dir=results_dir, data_dir=data_dir, argv=argv, on_progress=on_progress)
        send(state=record.status, score=record.result["score"])
    except RunBusy:
        send(state=ELSEWHERE)
    except Interrupted:
        send(state=QUEUED)
    except BenchError as error:
        send(state=FAILED, reason=str(error))
    except BaseException as error:
        config.record_path(results_dir).with_suffix(".error").write_text(traceback.format_exc())
        send(state=FAILED, reason=f"{type(error).__name__}: {error}".splitlines()[0])


def _listen(worker: Worker) -> bool:
    """Take up what a worker says; False once it has ended."""
    cell = worker.cell
    cell.seconds = time.monotonic() - worker.began
    alive = worker.process.is_alive()
    try:
        while worker.pipe.poll():
            for name, value in worker.pipe.recv().items():
                setattr(cell, name, value)
    except EOFError:
        pass
    if alive:
        return True
    worker.process.join()
    worker.pipe.close()
    if cell.state == RUNNING:
        cell.state, cell.reason = FAILED, f"its process ended with exit code {worker.process.exitcode}"
    return False


def _stop(running: Sequence[Worker]) -> None:
    """Have every worker save its state and end."""
    for worker in running:
        worker.process.terminate()
    for worker in running:
        worker.process.join()
        worker.cell.state = QUEUED


def estimated_seconds(cells: Sequence[Cell], results_dir: Path) -> dict[int, float]:
    """By place in `cells`, how long each unfinished one should take: as the records say that lie in `results_dir`.

    Of the same method, environment and budget, else of any method in that environment and budget. One without either is
    left out, and so are damaged records.
    """
    known: dict[tuple[str, ...], list[float]] = {}
    for path in results_dir.rglob("seed-*.json"):
        try:
            record = read_record(path)
        except BenchError:
            continue
        if record.status == "finished":
            c, seconds = record.config, record.execution["wall_seconds"]
            for key in ((c["algo"], c["env"], c["budget"]), (c["env"], c["budget"])):
                known.setdefault(key, []).append(seconds)
    found = {}
    for place, cell in enumerate(cells):
        c = cell.config
        seconds = known.get((c.algo, c.env, c.budget)) or known.get((c.env, c.budget))
        if not cell.ended and seconds:
            found[place] = sum(seconds) / len(seconds)
    return found
