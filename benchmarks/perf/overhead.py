"""What a run costs beside its updates, start-up, memory and evaluations: `python -m omrlbench.perf.overhead`.

docs/performance.md says what is measured.
"""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import numpy as np

from omrlbench.config import resolve
from omrlbench.perf.turns import conditions
from omrlbench.process import deterministic
from omrlbench.record import read_record
from omrlbench.run_data import load_logs
from omrlbench.training import HEADLINE_PROTOCOL, SCORED_EVALUATIONS, TrainingRun, evaluation_steps

ENVS = ("cheetah_vel", "sparse_point_robot")
MEMORY_ENV = "cheetah_vel"
IMPORT = [sys.executable, "-c", "import omrlbench"]
BENCH = [sys.executable, "-c", "from omrlbench.cli import main; main()"]
UPDATES = 100  # that are timed
EVALUATION_TARGET = 0.05  # of a run
GIGABYTE = 1e9


@click.command(help=__doc__)
@click.option("--rounds", default=9, show_default=True, help="How often a process is started.")
def main(rounds: int) -> None:
    print(f"{conditions(['python', 'torch', 'mujoco', 'numpy'])}\n")
    print("| what | measured | target |")
    print("|---|---|---|")
    print(f"| `import omrlbench` | {start_up(IMPORT, rounds):.2f} s | 0.15 s |")
    print(f"| `bench --help` | {start_up([*BENCH, '--help'], rounds):.2f} s | 0.4 s |", flush=True)
    memory = peak_memory(MEMORY_ENV) / GIGABYTE
    print(f"| peak memory of a run of {MEMORY_ENV} | {memory:.2f} GB | 1.2 GB |", flush=True)
    for env in ENVS:
        updates, evaluations = run_seconds(env)
        share = evaluations / (updates + evaluations)
        print(
            f"| evaluations of a run of {env} | {evaluations:.0f} s beside {updates:.0f} s of updates, {share:.1%} "
            f"| {EVALUATION_TARGET:.0%} |",
            flush=True,
        )


def start_up(command: list[str], rounds: int) -> float:
    """Median seconds from the start of a process to its end."""
    return float(
        np.median([seconds(lambda: subprocess.run(command, check=True, capture_output=True)) for _ in range(rounds)])
    )


def peak_memory(env: str) -> int:
    """Bytes, of a run with FOCAL that is short but has all the data and evaluations of a longer one."""
    with TemporaryDirectory() as folder:
        options = ["--algo", "focal", "--env", env, "--set", "steps=10", "--results-dir", folder]
        subprocess.run([*BENCH, "run", *options], check=True, capture_output=True)
        (record,) = Path(folder).rglob("seed-0.json")
        return read_record(record).execution["peak_memory_bytes"]


def run_seconds(env: str) -> tuple[float, float]:
    """Seconds that updates and evaluations of a run with FOCAL take at its budget: one of each, times their number."""
    config = resolve(env, "focal")
    logs = load_logs(config, None)
    with deterministic(), TemporaryDirectory() as folder:
        run = TrainingRun(config, logs, Path(folder) / "seed-0.json", sinks=[])

        def update() -> None:
            for _ in range(UPDATES):
                run.algorithm.update(run.sampler.sample())

        seconds(update)
        updates = config.training.steps / UPDATES * seconds(update)
        points = len(evaluation_steps(config.training.steps, config.training.eval_interval))
        evaluations = points * seconds(lambda: run.evaluate({}))
        evaluations += SCORED_EVALUATIONS * seconds(lambda: run.final_evaluation(HEADLINE_PROTOCOL))
        return updates, evaluations + seconds(run.other_protocols) + seconds(run.write_artefacts)


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
