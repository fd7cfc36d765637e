"""What a launcher adds to its cells, and whether Ray loses one when a node dies: `python -m omrlbench.perf.launching`.

Runs cells of the smoke suite, seed after seed, in as many places at once as asked for.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from omrlbench.data.identity import datasets_root
from omrlbench.launchers.local import LocalLauncher
from omrlbench.launchers.worker import News, Work
from omrlbench.perf.turns import conditions
from omrlbench.suite import suite_cells
from omrlbench.sweep import FINISHED, Cell, Launcher, sweep


class TimedWork(Work):
    """Its cells end with `worked`, the seconds that they had in their worker."""

    def run(self, config, tell) -> News:
        start = time.monotonic()
        return super().run(config, tell) | {"worked": time.monotonic() - start}


@click.command()
@click.option("--cells", "count", default=100, show_default=True, help="Of the smoke suite, seed after seed.")
@click.option("--only", help="Of one method.")
@click.option("--places", default=2, show_default=True, help="Cells at once: worker processes, or nodes of Ray.")
@click.argument("launchers", nargs=-1, type=click.Choice(["local", "ray", "dying"]))
def main(count: int, only: str | None, places: int, launchers: Sequence[str]) -> None:
    """What a launcher adds to its cells, and whether Ray loses one when a node dies.

    LAUNCHERS are local, ray, and dying, which is Ray with a node that dies; by default all.
    """
    print(f"{conditions(['python', 'torch'])}; {count} cells, {places} at once\n")
    print("| launcher | finished | elapsed | in a cell | added per cell |")
    print("|---|---|---|---|---|")
    for name in launchers or ("local", "ray", "dying"):
        with TemporaryDirectory() as folder, ExitStack() as stack:
            cells = smoke_cells(count, only, Path(folder))
            work = TimedWork(Path(folder), datasets_root().resolve(), ["python", "-m", "omrlbench.perf.launching"])
            if name == "local":
                print(row(name, cells, LocalLauncher(work, places), places), flush=True)
                continue
            from omrlbench.launchers.ray import RayLauncher

            cluster = start_nodes(places)
            stack.callback(cluster.shutdown)
            launcher = RayLauncher(work, address=cluster.address, cpus=1, gpus=0)
            lose = partial(replace_a_node, cluster) if name == "dying" else None
            print(row(name, cells, launcher, places, lose), flush=True)


def row(name: str, cells: list[Cell], launcher: Launcher, places: int, lose: Callable[[], None] | None = None) -> str:
    """Run the cells, and `lose` a node when a third of them has ended.

    What is added is the time of the places that is not spent in a cell, per cell.
    """
    lost = []

    def on_change(cell: Cell | None) -> None:
        if lose and not lost and sum(cell.ended for cell in cells) >= len(cells) / 3:
            lose()
            lost.append(True)

    start = time.monotonic()
    sweep(cells, launcher, on_change)
    elapsed = time.monotonic() - start
    worked = [cell.worked for cell in cells if cell.state == FINISHED]
    added = (elapsed * places - sum(worked)) / len(cells)
    values = [name, f"{len(worked)}", f"{elapsed:.0f} s", f"{sum(worked) / len(worked):.2f} s", f"{added:.2f} s"]
    return f"| {' | '.join(values)} |"


def smoke_cells(count: int, only: str | None, folder: Path) -> list[Cell]:
    configs = [config for _, config in suite_cells("smoke") if only in (None, config.algo)]
    seeded = [replace(configs[k % len(configs)], seed=k // len(configs)) for k in range(count)]
    return [Cell("default", config, config.record_path(folder)) for config in seeded]


NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}


def start_nodes(count: int):
    """A Ray cluster of processes of this machine: a head that runs no cells, and `count` nodes of one cell each."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args=NODE | {"num_cpus": 0, "include_dashboard": False})
    for _ in range(count):
        cluster.add_node(**NODE)
    return cluster


def replace_a_node(cluster) -> None:
    """Kill one and have another one join."""
    cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
    cluster.add_node(wait=False, **NODE)


if __name__ == "__main__":
    main()
