"""FOCAL, CSRO and IDAQ: `goal_idx<task>/trj_evalsample<n>_step<k>.npy`, one file per trajectory.

- Each file is an object array (T, 4) of rows [observation, action, reward, next observation]: a pickle.
- n is the number of the trajectory, k the training step of the behaviour policy. Which k are taken decides the quality
  of the data: `--step`. The authors' loader takes one k or all.
- Folders are read in the order of their numbers: as text, 10 comes before 2.
- The authors' loader ignores missing files. Here an empty folder or one without the step is an error, and gaps in n
  are counted.
- `trj_eval<n>_step<k>.npy` are of the deterministic policy, which the authors never load: counted and left out.
- No file tells how its trajectory ended, and the authors' loader makes every last step a terminal. See `episodes_of`.
- The first observation of a point robot is of integers.
- Actions are the policy's, in [-1, 1], also where the environment's own reach 0.1. Rewards are dense and not scaled:
  for sparse tasks as well, and without the factor of 5 or 100 that training applies.
- Trajectories of the point robots are of 200 steps, ten times the paper's 20, unless it was set otherwise.
- Observations of the released data were divided by their largest (+1e-8), which `normalizer.npz` holds under
  `abs_max`; they are multiplied again. A folder called `..._norm` without that file is refused.
- Walkers were drawn without a seed. `log.txt` holds their masses and more, and none is a task here.
"""

import re
from pathlib import Path

import numpy as np

from omrlbench.data.episodes import DatasetError, naming
from omrlbench.data.importers.source import (
    Episode,
    Source,
    SourceTask,
    as_numbers,
    episodes_of,
    make_rows,
    numbered,
    runs,
)
from omrlbench.data.importers.unpickle import check_allowed, read_npy

TRAJECTORY = re.compile(r"trj_evalsample(\d+)_step(\d+)\.npy")
DETERMINISTIC = re.compile(r"trj_eval(\d+)_step(\d+)\.npy")
NORMALISER = "normalizer.npz"
BEYOND = 0.01  # share of numbers above 1 in observations that were divided by the largest
NORMALISER_EPSILON = 1e-8


def tasks(source: Source) -> list[SourceTask]:
    largest = _largest_observation(source)
    return [_task(source, number, folder, largest) for number, folder in _folders(source).items()]


def _folders(source: Source) -> dict[int, Path]:
    return numbered(source.path, r"goal_idx(\d+)", "folder goal_idx<task>")


def _task(source: Source, number: int, folder: Path, largest: np.ndarray | None) -> SourceTask:
    names = [file.name for file in folder.iterdir()]
    source.remarks["deterministic trajectories, left out"] += sum(map(bool, map(DETERMINISTIC.fullmatch, names)))
    keys = [(int(match[2]), int(match[1])) for match in map(TRAJECTORY.fullmatch, names) if match]
    taken = sorted((step, n) for step, n in keys if not source.steps or step in source.steps)
    if not taken:
        raise DatasetError(f"{folder}: holds no trj_evalsample<n>_step<k>.npy{_available(keys)}")
    for step in {step for step, _ in taken}:
        found = {n for k, n in taken if k == step}
        source.remarks["trajectories whose number is missing between others"] += max(found) + 1 - len(found)
    files = [folder / f"trj_evalsample{n}_step{step}.npy" for step, n in taken]
    check_allowed(files[0], source.allow_pickle)
    log, normaliser = folder / "log.txt", source.path / NORMALISER
    others = [file for file in (log, normaliser) if file.exists()]

    def load() -> list[Episode]:
        steps = (step for step, _ in taken)
        return [e for file, k in zip(files, steps, strict=True) for e in _episodes(source, file, k, largest)]

    stated = {"log.txt": log.read_text()} if log in others else None
    return SourceTask(number, (*files, *others), load, stated)


def _available(keys: list[tuple[int, int]]) -> str:
    steps = sorted({step for step, _ in keys})
    return f" of the steps asked for; there are {', '.join(map(str, steps))}" if steps else ""


def _episodes(source: Source, file: Path, step: int, largest: np.ndarray | None) -> list[Episode]:
    table = read_npy(file, source.allow_pickle)
    if table.ndim != 2 or table.shape[1] != 4 or not len(table):
        raise DatasetError(f"{file}: the array has shape {table.shape}, expected (T, 4)")
    observations, actions, rewards, next_observations = table.T
    if largest is not None:
        observations, next_observations = (
            _undivided(file, values, largest) for values in (observations, next_observations)
        )
    rows = make_rows(
        source,
        file,
        observations=observations,
        actions=actions,
        rewards=rewards,
        next_observations=next_observations,
        terminal=np.arange(len(table)) == len(table) - 1,
    )
    if len(runs(rows)) != 1:
        raise DatasetError(f"{file}: step {runs(rows)[1][0]} does not begin where the one before ended")
    return episodes_of(source, rows, step)


def _largest_observation(source: Source) -> np.ndarray | None:
    """What the observations were divided by (observation_dim,), None where they were not."""
    file = source.path / NORMALISER
    if not file.exists():
        if source.path.resolve().name.endswith("_norm"):
            raise DatasetError(f"{source.path}: is of normalised observations by its name; normalizer.npz is missing")
        return None
    with naming(file), np.load(file, allow_pickle=False) as stored:
        largest = as_numbers(file, "abs_max", stored["abs_max"])
    if largest.shape != (source.dimensions[0],):
        raise DatasetError(f"{file}: abs_max {largest.shape}, {source.spec.name} needs ({source.dimensions[0]},)")
    return largest + NORMALISER_EPSILON


def _undivided(file: Path, values: np.ndarray, largest: np.ndarray) -> np.ndarray:
    numbers = as_numbers(file, "observations", values)
    if (np.abs(numbers) > 1).mean() > BEYOND:
        raise DatasetError(f"{file}: observations exceed 1, so they are not normalised; remove normalizer.npz")
    if numbers.shape[1:] != largest.shape:
        raise DatasetError(f"{file}: observations {numbers.shape}, normalizer.npz is of {len(largest)} numbers")
    return numbers * largest
