"""What the cells of a suite would take: from the records of like runs, else from single updates that were measured.

`perf/run_cost.json` has the updates of every method of the suite core at the paper budget, on one core. No GPU was
there to measure on: the time of an update on one follows from two assumed numbers, and the evaluations of a run are
left out of both.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from omrlbench.config import RunConfig
from omrlbench.data.identity import SHIFTED, can_shift
from omrlbench.data.store import describe
from omrlbench.errors import BenchError
from omrlbench.record import read_record
from omrlbench.registry import meta_env
from omrlbench.sweep import Cell

MEASURED_BUDGET = "paper"
GPU_OPERATION = 10e-6  # seconds that an operation takes on a GPU, assumed
GPU_PRODUCTS = 10e12  # floating-point operations a second of matrix products on a GPU, assumed
BESIDE_STATE = 2_000_000  # bytes, at most, of a record and what is kept beside it


@dataclass(frozen=True)
class Plan:
    """What the cells without a record would take."""

    seconds: dict[int, float]  # by place of the cell, where that is known
    recorded: set[int]  # places whose seconds come from records
    gpu_seconds: float  # that the others would take on a GPU, estimated
    run_bytes: int  # at most
    datasets: int
    datasets_made: int
    dataset_bytes: int  # of these


def make_plan(cells: Sequence[Cell], results_dir: Path, data_dir: Path | None) -> Plan:
    expected = expected_seconds(cells, results_dir)
    missing = {place: cell.config for place, cell in enumerate(cells) if not cell.ended}
    computed = [missing[place] for place, (_, from_records) in expected.items() if not from_records]
    sizes = dataset_sizes(missing.values(), data_dir)
    made = [size for size in sizes if size is not None]
    return Plan(
        seconds={place: seconds for place, (seconds, _) in expected.items()},
        recorded={place for place, (_, from_records) in expected.items() if from_records},
        gpu_seconds=sum(update_seconds(config, "cuda") for config in computed),
        run_bytes=sum(state_bytes(config) + BESIDE_STATE for config in missing.values()),
        dataset_bytes=sum(made),
        datasets=len(sizes),
        datasets_made=len(made),
    )


def expected_seconds(cells: Sequence[Cell], results_dir: Path) -> dict[int, tuple[float, bool]]:
    """By place in `cells`, how long each unfinished one should take, and whether records in `results_dir` say so.

    Those of the same method, environment, budget and device; else the measured updates; else records of any method in
    that environment and budget on that device. A cell without any of these is left out.
    """
    known, found = recorded_seconds(results_dir), {}
    for place, cell in enumerate(cells):
        if cell.ended:
            continue
        own, shared = likeness(cell.config.to_dict())
        if own in known:
            found[place] = known[own], True
        elif seconds := update_seconds(cell.config, cell.config.training.device):
            found[place] = seconds, False
        elif shared in known:
            found[place] = known[shared], True
    return found


def recorded_seconds(results_dir: Path) -> dict[tuple[str, ...], float]:
    """Mean duration of the finished runs below `results_dir`, by their `likeness`. Damaged records are left out."""
    known: dict[tuple[str, ...], list[float]] = {}
    for path in results_dir.rglob("seed-*.json"):
        try:
            record = read_record(path)
        except BenchError:
            continue
        if record.status == "finished":
            for key in likeness(record.config):
                known.setdefault(key, []).append(record.execution["wall_seconds"])
    return {key: sum(seconds) / len(seconds) for key, seconds in known.items()}


def likeness(config: dict[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What runs have in common that take about as long, and what those of other methods share with them."""
    shared = (config["env"], config["budget"], config["training"]["device"])
    return (config["algo"], *shared), shared


def update_seconds(config: RunConfig, device: str) -> float | None:
    """All updates of a run, on a GPU estimated; None where they were not measured."""
    run = _measured(config)
    return None if run is None else measured_seconds(run, device)


def measured_seconds(run: dict[str, Any], device: str) -> float:
    """All updates of a run in `run_cost.json`."""
    stages = run["stages"].values()
    return sum(stage["updates"] * (gpu_seconds(stage) if device == "cuda" else stage["seconds"]) for stage in stages)


def gpu_seconds(stage: dict[str, Any]) -> float:
    """Of one update, estimated."""
    return stage["operations"] * GPU_OPERATION + stage["product_flops"] / GPU_PRODUCTS


def state_bytes(config: RunConfig) -> int:
    """Of a run's checkpoint, 0 where it was not measured."""
    run = _measured(config)
    return 0 if run is None else run["state_bytes"]


def dataset_sizes(configs: Any, data_dir: Path | None) -> list[int | None]:
    """Bytes of every dataset that the runs read, None where it is not made."""
    wanted: dict[tuple[str, str, str], None] = {}
    for config in configs:
        levels = [config.level, config.level + SHIFTED] if can_shift(meta_env(config.env).tasks) else [config.level]
        wanted |= {(config.env, level, config.behavior): None for level in levels}
    found = [describe(env, level, behavior=behavior, data_dir=data_dir) for env, level, behavior in wanted]
    return [dataset.get("size") for dataset in found]


def _measured(config: RunConfig) -> dict[str, Any] | None:
    if config.budget != MEASURED_BUDGET:
        return None
    return run_costs()["runs"].get(config.env, {}).get(config.algo)


@cache
def run_costs() -> dict[str, Any]:
    return json.loads((files("omrlbench") / "perf" / "run_cost.json").read_text())
