"""What a run of the paper budget costs, by meta-environment and method: `python -m omrlbench.perf.run_cost`.

Measures single updates of every method of the suite core, for `bench sweep --dry-run` and docs/scaling.md.
"""

import io
import json
import sys
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from omrlbench.algorithms.algorithm import LAST_STAGE
from omrlbench.config import RunConfig
from omrlbench.cost import measured_seconds
from omrlbench.data.dataset import MultiTaskDataset
from omrlbench.perf.training_step import random_dataset
from omrlbench.perf.turns import conditions
from omrlbench.process import deterministic
from omrlbench.suite import suite_cells
from omrlbench.training import make_algorithm, make_sampler

STORED = Path(__file__).with_suffix(".json")
BUDGET = "paper"


@click.command(help=__doc__)
@click.option("--updates", default=1, show_default=True, help="That are timed, after one that is not.")
@click.option("--stored", is_flag=True, help="Measure nothing: print the table of what was measured last.")
def main(updates: int, stored: bool) -> None:
    if not stored:
        STORED.write_text(json.dumps(measure_all(updates), indent=1) + "\n")
    print(table(json.loads(STORED.read_text())))


def table(costs: dict[str, Any]) -> str:
    """Markdown: hours of one run on a core and, estimated, on a GPU, by method and meta-environment."""
    runs = costs["runs"]
    lines = [f"| {' | '.join(['method', *runs])} |", "|---" * (len(runs) + 1) + "|"]
    for algo in next(iter(runs.values())):
        hours = [[measured_seconds(runs[env][algo], device) / 3600 for device in ("cpu", "cuda")] for env in runs]
        lines.append(f"| {' | '.join([algo, *(f'{core:.1f} / {gpu:.1f}' for core, gpu in hours)])} |")
    return "\n".join(lines)


def measure_all(updates: int) -> dict[str, Any]:
    cells = {(config.env, config.algo): config for _, config in suite_cells("core", BUDGET)}
    costs: dict[str, Any] = {"conditions": conditions(["python", "torch"]), "runs": {}}
    for env in dict.fromkeys(env for env, _ in cells):
        dataset = random_dataset(env)
        for config in (config for (name, _), config in cells.items() if name == env):
            with deterministic():
                measured = measure(config, dataset, updates)
            costs["runs"].setdefault(env, {})[config.algo] = measured
            print(f"measured: {config.algo} on {env}", file=sys.stderr, flush=True)
    return costs


def measure(config: RunConfig, dataset: MultiTaskDataset, updates: int) -> dict[str, Any]:
    """Per stage the number of updates, and of one update, drawing its batch included, the processor seconds on one
    thread, operations, and floating-point operations of matrix products; and the bytes of the state of a run.
    """
    algorithm = make_algorithm(config, dataset)
    stages = {}
    for stage, steps in (algorithm.stages | {LAST_STAGE: config.training.steps}).items():
        algorithm.stage = stage
        sampler = make_sampler(config, dataset, algorithm, np.random.default_rng(0))
        with Operations() as operations, FlopCounterMode(display=False) as products:
            algorithm.update(sampler.sample())
        start = time.process_time()
        for _ in range(updates):
            algorithm.update(sampler.sample())
        seconds = (time.process_time() - start) / updates
        stages[stage] = {
            "updates": steps,
            "seconds": float(f"{seconds:.3g}"),
            "operations": operations.count,
            "product_flops": products.get_total_flops(),
        }
    buffer = io.BytesIO()
    torch.save(algorithm.state_dict(), buffer)
    return {"stages": stages, "state_bytes": buffer.tell()}


class Operations(TorchDispatchMode):
    """Inside, `count` grows with every operation, views among them."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, operation, types, arguments=(), keywords=None):
        self.count += 1
        return operation(*arguments, **(keywords or {}))


if __name__ == "__main__":
    main()
