"""Running a suite: its unfinished cells by a launcher, each resumable by itself.

A cell is run by a process of its own, which says how far it is. Whatever dies, that process or the sweep, the
same command goes on: a cell keeps its state beside its record, and the lock of a cell is the operating system's.
"""

import csv
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from omrlbench.config import RunConfig
from omrlbench.errors import BenchError, Interrupted
from omrlbench.process import StopSignal
from omrlbench.record import read_record
from omrlbench.suite import suite_cells

BUSY_WAIT = 20.0  # seconds until a cell that another process has is tried again, which takes a process some seconds
LOOK = 1.0  # seconds between two looks at the cells

QUEUED, PENDING, RUNNING, ELSEWHERE = "queued", "pending", "running", "another process"  # states of a cell
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

    def look_at_curve(self) -> None:
        """Take up how far the run is by the points of its curve, which it writes beside where its record will be."""
        try:
            rows = list(csv.DictReader(self.path.with_suffix(".csv").read_text().splitlines()))
        except FileNotFoundError:
            return
        self.done, self.score = int(rows[-1]["step"]) / self.config.training.steps, float(rows[-1]["score"])

    def take_up(self, news: dict[str, Any]) -> None:
        """Values of this cell by name, as its worker tells them."""
        for name, value in news.items():
            setattr(self, name, value)


def find_cells(suite: str, results_dir: Path, only: dict[str, list[str]] | None = None, **replaced: Any) -> list[Cell]:
    """The cells of a suite with what their records say, of which `only` those with one of the values of every key.

    `replaced` are the budget and device that `suite_cells` takes.

    Raises BenchError for an unknown suite or key, and where no cell is left.
    """
    cells = [
        Cell(variant, config, config.record_path(results_dir)) for variant, config in suite_cells(suite, **replaced)
    ]
    for key, wanted in (only or {}).items():
        if key not in ("env", "algo", "level", "seed", "variant"):
            raise BenchError(f"--only takes env, algo, level, seed and variant, not {key!r}")
        values = {str(_value(cell, key)) for cell in cells}
        for value in wanted:
            if value not in values:
                raise BenchError(f"no cell of {suite} has {key}={value}, there are {', '.join(sorted(values))}")
        cells = [cell for cell in cells if str(_value(cell, key)) in wanted]
    for cell in cells:
        cell.look()
    return cells


def _value(cell: Cell, key: str) -> Any:
    return cell.variant if key == "variant" else getattr(cell.config, key)


class Launcher(Protocol):
    """Where cells run. What is on its way starts on entering and ends on leaving."""

    def __enter__(self) -> Any: ...

    def __exit__(self, *exception: object) -> None: ...

    @property
    def has_room(self) -> bool:
        """Whether it takes another cell now."""

    def start(self, cell: Cell) -> None:
        """Have a cell run, as soon as there is a place for it."""

    def listen(self) -> Iterable[Cell]:
        """Take up what there is to know of the cells, waiting for it at most `LOOK`; those that are given back.

        A cell is given back when it has ended, or QUEUED or ELSEWHERE if it has to be started again.
        """

    def stop(self) -> str:
        """Have every cell save its state; returns in one line what that means for the person who asked."""


def sweep(
    cells: Sequence[Cell],
    launcher: Launcher,
    on_change: Callable[[Cell | None], None] = lambda cell: None,
) -> None:
    """Run every cell that has no record; their states tell how it went.

    `on_change` is told the cell that was started or given back, and None every now and then. A failing cell does not
    stop the others. Raises Interrupted after SIGINT or SIGTERM.
    """
    under_way: set[int] = set()
    later: dict[int, float] = {}  # when a cell that another process has is tried again
    with launcher, StopSignal() as stop:
        while not stop.requested and (under_way or not all(cell.ended for cell in cells)):
            for cell in cells:
                if not launcher.has_room:
                    break
                key = id(cell)
                if not cell.ended and key not in under_way and time.monotonic() >= later.get(key, 0.0):
                    under_way.add(key)
                    launcher.start(cell)
                    on_change(cell)
            for cell in launcher.listen():
                under_way.remove(id(cell))
                if cell.state == ELSEWHERE:
                    later[id(cell)] = time.monotonic() + BUSY_WAIT
                on_change(cell)
            on_change(None)
        if stop.requested:
            raise Interrupted(launcher.stop())


def under_way(cells: Iterable[Cell]) -> str:
    """How many of the cells are waited for, run, or have begun, and how far these are on average; "" if none."""
    shares: dict[str, list[float]] = {}
    for cell in cells:
        begun = cell.path.with_suffix(".checkpoint").exists()
        if not cell.ended and (begun or cell.state != QUEUED):
            cell.look_at_curve()
            shares.setdefault("begun" if cell.state == QUEUED else cell.state, []).append(cell.done)
    means = {state: sum(done) / len(done) for state, done in shares.items()}
    return ", ".join(
        f"{len(shares[state])} {state}" + (f" ({mean:.0%})" if mean else "") for state, mean in means.items()
    )
