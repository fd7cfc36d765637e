"""What a person sees while something takes long: a bar on a terminal, and messages of one line anywhere.

All of it goes to standard error.
"""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    from omrlbench.sweep import Cell
    from omrlbench.training import Progress as TrainingProgress

WIDE = 70  # columns below which only percentage, text and time left are shown


class Bar:
    """A context manager; `update` says what is being done and how far it is. Quiet where there is no terminal."""

    def __init__(self, what: str = "") -> None:
        self.console = Console(stderr=True, highlight=False, markup=False)
        self.wide = self.console.width >= WIDE
        self.progress = Progress(
            *([BarColumn(bar_width=None)] if self.wide else []),
            TaskProgressColumn(),
            TextColumn("{task.description}", markup=False),
            TimeRemainingColumn(compact=True),
            console=self.console,
            disable=not self.console.is_terminal,
            transient=True,
            expand=True,
        )
        self.task = self.progress.add_task(what, total=None)

    def __enter__(self) -> "Bar":
        self.progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.progress.stop()

    def update(self, what: str, done: int, total: int) -> None:
        self.progress.update(self.task, description=what, completed=done, total=total)

    def message(self, line: str) -> None:
        self.console.print(line, soft_wrap=True)

    def training(self, now: "TrainingProgress") -> None:
        """Show the stage where there are several, the first loss of the method, the last score and the speed."""
        parts = ["score -" if now.score is None else f"score {now.score:z.2f}"]
        if now.stage is not None:
            parts = [now.stage]
        if self.wide:
            losses = [f"{name} {value:.3g}" for name, value in now.metrics.items() if name.endswith("loss")]
            parts = [*losses[:1], *parts, f"{now.steps_per_second:.0f} steps/s"]
        self.update("  ".join(parts), now.step, now.steps)


class SweepTable:
    """A context manager that shows a sweep: on a terminal a live table of the running cells and the time left, anywhere
    a line for every cell that ends."""

    def __init__(self, cells: "Sequence[Cell]", estimates: dict[int, float]) -> None:
        self.cells, self.estimates = cells, estimates
        self.console = Console(stderr=True, highlight=False, markup=False)
        self.live = Live(console=self.console, auto_refresh=False, transient=True)

    def __enter__(self) -> "SweepTable":
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.live.stop()

    def update(self, cell: "Cell | None") -> None:
        if cell is not None and cell.ended:
            score = "" if cell.score is None else f", score {cell.score:z.2f}"
            reason = "" if cell.reason is None else f": {cell.reason}"
            line = f"{cell.state}: {cell.name}{score} ({clock(cell.seconds)}){reason}"
            self.console.print(line, soft_wrap=True)
        if self.live.is_started:
            self.live.update(self.table(), refresh=True)

    def table(self) -> Table:
        counts = Counter(cell.state for cell in self.cells)
        summary = ", ".join(f"{count} {state}" for state, count in counts.items())
        left = self.seconds_left()
        title = f"{len(self.cells)} cells: {summary}" + (f"; about {clock(left)} left" if left else "")
        table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
        for name in ("running", "done", "score", "time"):
            table.add_column(name, justify="left" if name == "running" else "right")
        for cell in self.cells:
            if cell.state == "running":
                done = f"{cell.done:.0%}" if cell.stage is None else f"{cell.stage} {cell.done:.0%}"
                score = "" if cell.score is None else f"{cell.score:z.2f}"
                table.add_row(cell.name, done, score, clock(cell.seconds))
        return table

    def seconds_left(self) -> float | None:
        """As long as the records of like cells took, or those of this sweep; None where neither is known.

        As many cells run at once as do now.
        """
        taken = [cell.seconds for cell in self.cells if cell.ended and cell.seconds]
        left = 0.0
        for place, cell in enumerate(self.cells):
            whole = self.estimates.get(place, sum(taken) / len(taken) if taken else 0.0)
            if not cell.ended and not whole:
                return None
            left += 0.0 if cell.ended else whole * (1 - (cell.done if cell.stage is None else 0.0))
        return left / max(1, sum(cell.state == "running" for cell in self.cells))


def clock(seconds: float) -> str:
    """12 s, 3 min 20 s or 2 h 05 min."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{minutes} min {rest:02} s" if hours == 0 else f"{hours} h {minutes:02} min"
