"""BOReL, CORRO, UNICORN and FOCAL-latest: a folder per task with obs, actions, rewards, next_obs, terminals (.npy).

- The folder's name, `seed_<s>_goal_<g1>_<g2>...` or `goal_...`, is all that is known of the task, to 3 decimals. The
  authors' task order is `os.listdir`'s, which differs between machines and decides their split: here a task is found
  by its goal; by number, folders are sorted by seed and goal. Several folders may be of one task (the 20 directions
  of the cheetah are copies of two): their episodes are joined.
- Arrays are (N, dim), whole rollouts one after the other, or (T, rollouts, dim).
- Rollouts of two episodes (BOReL) add a flag to the observation, 1 where an inner episode closes. The step after it is
  stored with the closing observation and not with the one after the reset: a teleport, which is left out.
- `terminals` of BOReL say that the robot is in the goal now; time limits are never among them. They count only
  where an episode also ends. The bytes are uint8.
- BOReL's ants come without rewards.npy. The authors' loader makes one for a random goal and from the wrong observation:
  where reward_goal.npy is, rewards.npy is not believed.
- State-relabelled sets have the belief appended to the observation and do not fit.
- Actions are in [-1, 1], of a point robot too; those of its first, random rollouts reach only 0.1 of it.
"""

import re
from pathlib import Path

import numpy as np

from omrlbench.data.episodes import DatasetError
from omrlbench.data.importers.source import Episode, Source, SourceTask, as_numbers, episodes_of, make_rows
from omrlbench.data.importers.unpickle import read_npy

FOLDER = re.compile(r"(?:seed_(\d+)_)?goal_(.+)")
COLUMNS = ("obs", "actions", "rewards", "next_obs", "terminals")
PRECISION = 0.5e-3  # of three decimals


def tasks(source: Source) -> list[SourceTask]:
    if not source.path.is_dir():
        raise DatasetError(f"{source.path}: is no folder; give the one that holds seed_<s>_goal_<g> folders")
    matches = {entry: FOLDER.fullmatch(entry.name) for entry in source.path.iterdir()}
    keys = {folder: (int(match[1] or 0), _goal(folder, match[2])) for folder, match in matches.items() if match}
    if not keys:
        raise DatasetError(f"{source.path}: holds no folder seed_<s>_goal_<g> or goal_<g>")
    return [_task(source, number, folder, keys[folder][1]) for number, folder in enumerate(sorted(keys, key=keys.get))]


def _goal(folder: Path, text: str) -> list[float]:
    try:
        return [float(part) for part in text.split("_")]
    except ValueError:
        raise DatasetError(f"{folder}: {text!r} is no goal, expected numbers joined by _") from None


def _task(source: Source, number: int, folder: Path, goal: list[float]) -> SourceTask:
    files = {name: folder / f"{name}.npy" for name in COLUMNS}
    if (folder / "reward_goal.npy").exists():
        raise DatasetError(f"{folder}: holds reward_goal.npy; BOReL's rewards of ants are of random goals")
    for file in files.values():
        if not file.exists():
            raise DatasetError(f"{file}: is missing")

    def load() -> list[Episode]:
        return _episodes(source, folder, {name: read_npy(file, source.allow_pickle) for name, file in files.items()})

    return SourceTask(number, tuple(files.values()), load, parameters=goal, precision=PRECISION + 1e-9)


def _episodes(source: Source, folder: Path, columns: dict[str, np.ndarray]) -> list[Episode]:
    ends = _rollout_ends(columns["obs"])
    flat = {name: as_numbers(folder, name, values) for name, values in columns.items()}
    if columns["obs"].ndim == 3:
        flat = {name: values.swapaxes(0, 1).reshape(len(ends), -1) for name, values in flat.items()}
    stale = np.zeros(len(ends), bool)
    if _has_flag(source, flat):
        stale, closed = flat["obs"][:, -1] == 1, flat["next_obs"][:, -1] == 1
        ends, flat = ends | closed, flat | {name: flat[name][:, :-1] for name in ("obs", "next_obs")}
        source.remarks["first steps of second episodes, whose observation was not stored, left out"] += int(stale.sum())
    rows = make_rows(
        source,
        folder,
        observations=flat["obs"],
        actions=flat["actions"],
        rewards=flat["rewards"],
        next_observations=flat["next_obs"],
        ends=ends,
        terminal=flat["terminals"],
    )
    return episodes_of(source, rows[~stale])


def _rollout_ends(observations: np.ndarray) -> np.ndarray:
    """Which rows are the last of a rollout (N,), none where rollouts are not an axis of their own."""
    if observations.ndim != 3:
        return np.zeros(len(observations), bool)
    length, rollouts, _ = observations.shape
    return np.tile(np.arange(length) == length - 1, rollouts)


def _has_flag(source: Source, columns: dict[str, np.ndarray]) -> bool:
    tables = columns["obs"], columns["next_obs"]
    wide = all(table.ndim == 2 and table.shape[1] == source.dimensions[0] + 1 for table in tables)
    return wide and all(np.isin(table[:, -1], (0, 1)).all() for table in tables)
