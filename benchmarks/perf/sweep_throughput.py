"""How much faster two workers sweep the smoke suite than one: `python -m omrlbench.perf.sweep_throughput`.

docs/performance.md says what is measured.
"""

import subprocess
from collections.abc import Sequence
from tempfile import TemporaryDirectory

import click

from omrlbench.perf.overhead import BENCH, seconds
from omrlbench.perf.turns import conditions
from omrlbench.run_data import load_logs
from omrlbench.suite import suite_cells

SUITE = "smoke"
WORKERS = 2
TARGET = 1.8


@click.command(help=__doc__)
@click.option("--only", metavar="KEY=VALUE", multiple=True, help="Some cells only, as in bench sweep.")
def main(only: Sequence[str]) -> None:
    for config in {config.env: config for _, config in suite_cells(SUITE)}.values():
        load_logs(config, None)  # so that neither has to make them
    one, several = sweep_seconds(1, only), sweep_seconds(WORKERS, only)
    print(f"{conditions(['python', 'torch'])}\n")
    print(f"| suite | 1 worker | {WORKERS} workers | faster by | target |")
    print("|---|---|---|---|---|")
    print(f"| {SUITE} | {one:.0f} s | {several:.0f} s | {one / several:.2f}x | {TARGET:g}x |")


def sweep_seconds(workers: int, only: Sequence[str]) -> float:
    """Of a sweep into an empty folder. Raises CalledProcessError if a run fails."""
    with TemporaryDirectory() as folder:
        command = [*BENCH, "sweep", SUITE, "--workers", str(workers), "--results-dir", folder]
        for value in only:
            command += ["--only", value]
        return seconds(lambda: subprocess.run(command, check=True, capture_output=True))


if __name__ == "__main__":
    main()
