"""What a person sees while something takes long: a bar on a terminal, and messages of one line anywhere.

All of it goes to standard error.
"""

from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
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
        parts = ["score -" if now.score is None else f"score {now.score:.2f}"]
        if now.stage is not None:
            parts = [now.stage]
        if self.wide:
            losses = [f"{name} {value:.3g}" for name, value in now.metrics.items() if name.endswith("loss")]
            parts = [*losses[:1], *parts, f"{now.steps_per_second:.0f} steps/s"]
        self.update("  ".join(parts), now.step, now.steps)
