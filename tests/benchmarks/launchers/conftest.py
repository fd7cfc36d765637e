from collections.abc import Callable
from pathlib import Path

import pytest

from omrlbench.config import resolve
from omrlbench.launchers.local import LocalLauncher
from omrlbench.launchers.worker import Work
from omrlbench.record import RunRecord, read_record
from omrlbench.sweep import Cell, find_cells, sweep


@pytest.fixture
def cell() -> Callable[..., Cell]:
    """A cell of the smoke budget with its record below a folder."""

    def make(algo, results_dir, *overrides, seed=0):
        config = resolve("sparse_point_robot", algo, budget="smoke", seed=seed, overrides=overrides)
        return Cell("default", config, config.record_path(results_dir))

    return make


@pytest.fixture(scope="session")
def alone(tmp_path_factory, data_dir) -> Callable[[Cell], RunRecord]:
    """The record of the same cell, run undisturbed by the local launcher."""
    folder = tmp_path_factory.mktemp("alone")

    def run(cell):
        undisturbed = Cell(cell.variant, cell.config, cell.config.record_path(folder))
        sweep([undisturbed], LocalLauncher(Work(folder, data_dir, ["bench"]), 1))
        return read_record(undisturbed.path)

    return run


@pytest.fixture(scope="session")
def local_smoke(tmp_path_factory, data_dir) -> dict[Path, RunRecord]:
    """The records of the smoke suite, run by the local launcher, by path below the results folder."""
    folder = tmp_path_factory.mktemp("smoke")
    cells = find_cells("smoke", folder)
    sweep(cells, LocalLauncher(Work(folder, data_dir, ["bench"]), 2))
    return {cell.path.relative_to(folder): read_record(cell.path) for cell in cells}


@pytest.fixture
def assert_equal_records(local_smoke) -> Callable[[Path], None]:
    """That the records of the smoke suite below a folder have the `config` and `result` of the local launcher's."""

    def check(folder):
        made = {path.relative_to(folder): read_record(path) for path in folder.rglob("seed-*.json")}
        assert made.keys() == local_smoke.keys()
        for place, record in made.items():
            assert record.config == local_smoke[place].config, place
            assert record.result == local_smoke[place].result, place

    return check
