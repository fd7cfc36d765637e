"""What there is: `bench list`."""

from pathlib import Path

import click

from omrlbench.commands.data import print_datasets
from omrlbench.commands.suites import complain_of_failures
from omrlbench.terminal import Verbs, data_dir_option, kept_results_option, print_table


@click.group(name="list", cls=Verbs)
def list_group() -> None:
    """List what there is."""


@list_group.command()
def algos() -> None:
    """Methods, what each sees of a task that it is evaluated on, what it learns from, and which package it comes from.

    It sees a context, the task's whole dataset, or for reference the task's parameters. It learns from logs, or from
    interaction with the training tasks.
    """
    from omrlbench.errors import BenchError
    from omrlbench.registry import algorithm_class, algorithms

    rows = []
    for name, origin in algorithms().items():
        try:
            method = algorithm_class(name)
            sees = "parameters" if method.privileged else method.allowance
            rows.append((name, sees, method.experience, origin))
        except BenchError as error:
            rows.append((name, "", "", f"{origin}: {error}"))
    print_table(("method", "sees", "learns from", "from"), rows)


@list_group.command()
def envs() -> None:
    """Meta-environments."""
    from omrlbench.envs.registry import get_meta_env, meta_env_origins

    rows = []
    for name, origin in meta_env_origins().items():
        try:
            spec = get_meta_env(name)
        except ValueError as error:
            rows.append((name, "", "", str(error), origin))
            continue
        splits = " / ".join(str(len(ids)) for ids in spec.tasks.splits.values())
        rows.append((name, splits, str(spec.horizon), spec.description, origin))
    print_table(("meta-environment", "train / validation / test tasks", "horizon", "task", "from"), rows)


@list_group.command()
@data_dir_option
def datasets(data_dir: Path | None) -> None:
    """Datasets, and which of them are made."""
    print_datasets(data_dir)


@list_group.command()
@kept_results_option("Where finished records are looked for.")
def suites(results_dir: Path) -> int:
    """Suites: the cells that a leaderboard promises, and how many of them are finished."""
    from omrlbench.suite import suite_names
    from omrlbench.sweep import find_cells

    found = {name: find_cells(name, results_dir) for name in suite_names()}
    rows = []
    for name, cells in found.items():
        rows.append((name, str(len(cells)), str(sum(cell.state == "finished" for cell in cells))))
    print_table(("suite", "cells", "finished"), rows, numbers=("cells", "finished"))
    return complain_of_failures({cell.path: cell for cells in found.values() for cell in cells}.values())
