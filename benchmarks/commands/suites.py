"""The runs of a suite: `bench sweep`, `status` and `collect`."""

import re
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from omrlbench.terminal import data_dir_option, kept_results_option, options, print_table, results_dir_option

if TYPE_CHECKING:
    from omrlbench.sweep import Cell

POSITIVE = click.FloatRange(0, min_open=True)
suite_options = options(
    click.argument("suite"),
    click.option(
        "--only",
        multiple=True,
        metavar="KEY=VALUE",
        help="Cells with this env, algo, level, seed or variant; repeatable, a key too.",
    ),
    click.option("--budget", help="Amount of training: smoke, cpu, paper.  [default: the suite's]"),
    click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True, help="To train on."),
)


@click.command()
@suite_options
@click.option(
    "--workers", type=click.IntRange(1), help="Cells that run at once.  [default: as many as there is room for]"
)
@click.option("--launcher", default="local", show_default=True, help="Where cells run: local, ray, slurm.")
@click.option("--cpus", type=POSITIVE, help="Per cell; ray takes fractions.  [default: 1]")
@click.option("--gpus", type=POSITIVE, help="Per cell; ray takes fractions.  [default: 1 with --device cuda]")
@click.option("--address", help="Of a Ray cluster: host:port, or auto.  [default: one of this machine alone]")
@click.option("--partition", help="Of Slurm.")
@click.option(
    "--time", type=click.IntRange(1), metavar="MINUTES", help="Limit of a Slurm job; a cell goes on in the next."
)
@click.option("--dry-run", is_flag=True, help="Say what would be run, and about what it would take.")
@results_dir_option
@data_dir_option
def sweep(
    suite: str,
    only: Sequence[str],
    budget: str | None,
    device: str,
    workers: int | None,
    launcher: str,
    dry_run: bool,
    results_dir: Path | None,
    data_dir: Path | None,
    **options: Any,
) -> int:
    """Run every cell of a suite that has no record yet.

    Killed or interrupted, the same command goes on. One failing cell does not stop the others.
    """
    from omrlbench.cost import expected_seconds
    from omrlbench.launchers.choice import given_options, make_launcher
    from omrlbench.launchers.worker import Work
    from omrlbench.progress import SweepTable
    from omrlbench.record import default_results_dir
    from omrlbench.sweep import find_cells
    from omrlbench.sweep import sweep as run_cells

    results_dir = results_dir or default_results_dir()
    cells = find_cells(suite, results_dir, key_values(only), budget=budget, device=device)
    if dry_run:
        given_options(launcher, device, options)
        print_plan(cells, results_dir, data_dir, device)
        return 0
    work = Work(results_dir, data_dir, ["bench", *sys.argv[1:]])
    chosen = make_launcher(launcher, work, workers, device, options)
    expected = {place: seconds for place, (seconds, _) in expected_seconds(cells, results_dir).items()}
    with SweepTable(cells, expected) as table:
        run_cells(cells, chosen, table.update)
    counts = Counter(cell.state for cell in cells)
    click.echo(f"{len(cells)} cells: " + ", ".join(f"{counts[s]} {s}" for s in ("finished", "diverged", "failed")))
    return complain_of_failures(cells)


@click.command()
@suite_options
@results_dir_option
def status(suite: str, only: Sequence[str], budget: str | None, device: str, results_dir: Path | None) -> int:
    """How far a suite is: finished seeds and mean score of every method in every meta-environment.

    Under way are cells that a Slurm job runs or is to run, or that have begun and have no record yet.
    """
    from omrlbench.launchers.queue import queued_jobs
    from omrlbench.record import default_results_dir
    from omrlbench.sweep import find_cells, under_way

    results_dir = results_dir or default_results_dir()
    found = find_cells(suite, results_dir, key_values(only), budget=budget, device=device)
    queued_jobs(results_dir, found)
    rows: dict[tuple[str, ...], list[Cell]] = {}
    for cell in found:
        rows.setdefault((cell.config.env, cell.config.level, cell.config.algo, cell.variant), []).append(cell)
    table = []
    for key, cells in rows.items():
        scores = [cell.score for cell in cells if cell.ended and cell.score is not None]
        mean = f"{sum(scores) / len(scores):.3f}" if scores else ""
        diverged = sum(cell.state == "diverged" for cell in cells)
        counts = (f"{len(scores)} of {len(cells)}", under_way(cells), str(diverged) if diverged else "")
        table.append((*key, *counts, mean))
    header = ("meta-environment", "level", "method", "variant", "seeds", "under way", "diverged", "mean score")
    print_table(header, table, numbers=header[4:])
    return complain_of_failures(found)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@kept_results_option("Where they go.")
def collect(folder: Path, results_dir: Path) -> int:
    """Copy the records of a scratch FOLDER, and what is beside them, to where results are kept.

    Every record is verified as by bench report. Exit codes: 0, or 2 where one is refused: it contradicts itself, or
    there is another one with other results.
    """
    from omrlbench.collecting import collect as collect_records

    outcomes = list(collect_records(folder, results_dir))
    for outcome in outcomes:
        if outcome.remark is not None:
            word = "refused" if outcome.state == "refused" else "stale"
            click.echo(f"{word}: {folder / outcome.place} {outcome.remark}", err=True)
    counts = Counter(outcome.state for outcome in outcomes)
    states = ", ".join(f"{counts[state]} {state}" for state in ("collected", "there already", "refused"))
    click.echo(f"{len(outcomes)} records: {states}")
    return 2 if counts["refused"] else 0


def print_plan(cells: Sequence["Cell"], results_dir: Path, data_dir: Path | None, device: str) -> None:
    """The cells and what they would take: time, as far as it is known, and disk."""
    from omrlbench.cost import GPU_OPERATION, GPU_PRODUCTS, make_plan, run_costs
    from omrlbench.progress import clock

    plan = make_plan(cells, results_dir, data_dir)
    rows = [(c.name, c.state, clock(plan.seconds[k]) if k in plan.seconds else "") for k, c in enumerate(cells)]
    print_table(("cell", "state", "about"), rows, numbers=("about",))
    missing = sum(not cell.ended for cell in cells)
    unknown = missing - len(plan.seconds)
    unit = "GPU-hours" if device == "cuda" else "core-hours"
    hours = f"{sum(plan.seconds.values()) / 3600:.1f} {unit}" + (f" and {unknown} unknown" if unknown else "")
    click.echo(f"{missing} of {len(cells)} cells to run: {hours}")
    computed = len(plan.seconds.keys() - plan.recorded)
    assumed = (
        f"{1e6 * GPU_OPERATION:g} microseconds for each operation and {GPU_PRODUCTS / 1e12:g} TFLOP/s in matrix "
        "products are assumed, evaluations left out"
    )
    if computed and device == "cuda":
        click.echo(f"{computed} of these times are estimates: {assumed}")
    elif computed:
        click.echo(f"{computed} of these times are of the updates alone, measured {run_costs()['conditions']}")
        click.echo(f"on GPUs (--device cuda) an estimated {plan.gpu_seconds / 3600:.1f} GPU-hours: {assumed}")
    click.echo(
        f"disk: at most {plan.run_bytes / 1e9:.2f} GB for runs; {plan.datasets_made} of {plan.datasets} datasets are "
        f"made and take {plan.dataset_bytes / 1e9:.2f} GB"
    )


def complain_of_failures(cells: Iterable["Cell"]) -> int:
    """Say which cells failed, or have a damaged record, and why; the exit code."""
    failed = [cell for cell in cells if cell.state == "failed"]
    for cell in failed:
        click.echo(f"failed: {cell.name}: {cell.reason}", err=True)
    return 1 if failed else 0


def key_values(pairs: Sequence[str]) -> dict[str, list[str]]:
    """ "key=value" strings, also several separated by commas, as the values of each key."""
    table: dict[str, list[str]] = {}
    for pair in (part for text in pairs for part in re.split(",(?=[^,=]*=)", text)):  # values may hold commas
        key, equals, value = pair.partition("=")
        if not equals:
            raise click.UsageError(f"--only takes key=value, not {pair!r}.")
        table.setdefault(key.strip(), []).append(value.strip())
    return table
