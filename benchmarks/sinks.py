"""Where the curve of a run goes point by point while it trains: a CSV file always, TensorBoard and W&B on request.

The record stays the truth; whatever is here can be drawn from it.
"""

import csv
import io
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from omrlbench.config import RunConfig
from omrlbench.errors import BenchError
from omrlbench.record import write_atomic

Point = dict[str, Any]  # of a record's curve


class Sink(Protocol):
    def write(self, curve: Sequence[Point]) -> None:
        """Take up the last point of `curve`; after a resumption that can be one that was there before."""

    def close(self) -> None: ...


def open_sinks(names: Sequence[str], config: RunConfig, record: Path) -> list[Sink]:
    """The CSV file beside `record` and the sinks `names`. Raises BenchError for one that is not installed."""
    for name in names:
        if find_spec(name) is None:
            raise BenchError(f"{name} is not installed: pip install 'omrl-bench[{name}]'")
    return [CsvFile(record.with_suffix(".csv")), *(SINKS[name](config, record) for name in names)]


def scalars(point: Point) -> dict[str, float]:
    """The numbers of a point by name: score, mean return, metrics that are finite, diagnostics of embeddings."""
    numbers = {"score": point["score"], "return": float(np.mean(point["returns"]))} | point["metrics"]
    for split, diagnostics in point["embedding"].items():
        numbers |= {f"{split}_{name}": value for name, value in (diagnostics or {}).items()}
    return {name: value for name, value in numbers.items() if value is not None}


class CsvFile:
    """One line per point. Written whole each time, so that it is right after any interruption."""

    def __init__(self, path: Path):
        self.path = path

    def write(self, curve: Sequence[Point]) -> None:
        rows = [{"step": point["step"], "split": point["split"]} | scalars(point) for point in curve]
        text = io.StringIO()
        writer = csv.DictWriter(text, dict.fromkeys(name for row in rows for name in row), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomic(self.path, text.getvalue().encode())

    def close(self) -> None:
        pass


class TensorBoard:
    """Event files in seed-K.tensorboard. A resumed run takes back what was written after its last saved state."""

    def __init__(self, config: RunConfig, record: Path):
        self.folder, self.writer = record.with_suffix(".tensorboard"), None

    def write(self, curve: Sequence[Point]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        point = curve[-1]
        if self.writer is None:
            self.writer = SummaryWriter(self.folder, purge_step=point["step"])
        for name, value in scalars(point).items():
            self.writer.add_scalar(name, value, point["step"])
        self.writer.flush()

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()


class WeightsAndBiases:
    """A run of the project omrl-bench; its id is of configuration and seed, so that a resumed run goes on in it."""

    def __init__(self, config: RunConfig, record: Path):
        self.config, self.folder, self.run = config, record.parent, None

    def write(self, curve: Sequence[Point]) -> None:
        import wandb

        if self.run is None:
            c = self.config
            self.run = wandb.init(
                project="omrl-bench",
                id=f"{c.fingerprint[:16]}-{c.seed}",
                name=f"{c.algo} {c.env} {c.level} seed {c.seed}",
                config=c.to_dict(),
                dir=self.folder,
                resume="allow",
            )
        self.run.log(scalars(curve[-1]), step=curve[-1]["step"])

    def close(self) -> None:
        if self.run is not None:
            self.run.finish()


SINKS = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases}  # by the package that each needs
