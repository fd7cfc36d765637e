"""HDF5 files as D4RL's: observations, actions, rewards, terminals, timeouts and perhaps next_observations.

- D4RL's files are of one task. Here the name tells which, `...task_<k>.hdf5`: one file, or a folder of them.
- `terminals` are true ends and `timeouts` time limits. Where both are true, the end counts, unless it is at the
  horizon: see `episodes_of`. Older files have no timeouts: as D4RL does, an episode then ends at the horizon.
- Without `next_observations` the observation that the last step of an episode led to is unknown: the next row is of the
  next episode. Such steps are left out and counted, which D4RL does as well. At a true end D4RL keeps the wrong
  observation; here such a file is refused.
- An episode also ends where a row does not begin where the one before led to: timeouts of some of D4RL's files are
  misplaced.
- The last episode may break off, and ends by truncation. Rewards and flags may have a second axis of length 1.
  `infos/...` and `metadata/...` are not kept.
"""

import re
from pathlib import Path

import numpy as np

from omrlbench.data.episodes import DatasetError
from omrlbench.data.importers.source import (
    Episode,
    Source,
    SourceTask,
    as_flags,
    can_terminate,
    episodes_of,
    make_rows,
    numbered,
    read_columns,
)

NAME = r".*task[_-]?(\d+)\.(?:hdf5|h5)"
COLUMNS = ("observations", "actions", "rewards", "terminals")


def tasks(source: Source) -> list[SourceTask]:
    return [_task(source, number, file) for number, file in _files(source.path).items()]


def _files(path: Path) -> dict[int, Path]:
    if path.is_dir():
        return numbered(path, NAME, "file ...task_<k>.hdf5")
    match = re.fullmatch(NAME, path.name)
    if not match:
        raise DatasetError(f"{path}: the name does not tell the task; call it task_<k>.hdf5")
    return {int(match[1]): path}


def _task(source: Source, number: int, file: Path) -> SourceTask:
    return SourceTask(number, (file,), lambda: _episodes(source, file))


def _episodes(source: Source, file: Path) -> list[Episode]:
    columns = read_columns(file, COLUMNS, ("timeouts", "next_observations"))
    terminal = as_flags(file, columns["terminals"], len(columns["rewards"]))
    if "timeouts" in columns:
        ends = terminal | as_flags(file, columns["timeouts"], len(terminal))
    else:
        ends = _ends_by_horizon(terminal, source.spec.horizon)
    complete = "next_observations" in columns
    led_to = columns["next_observations"] if complete else np.roll(columns["observations"], -1, 0)
    last = ends | (np.arange(len(ends)) == len(ends) - 1)
    rows = make_rows(
        source,
        file,
        observations=columns["observations"],
        actions=columns["actions"],
        rewards=columns["rewards"],
        next_observations=led_to,
        ends=last if complete else np.roll(last, -1),
        terminal=terminal,
    )
    if complete:
        return episodes_of(source, rows)
    if terminal.any() and can_terminate(source.spec):
        raise DatasetError(f"{file}: row {terminal.argmax()} is terminal and there are no next_observations")
    source.remarks["last steps of episodes, whose next observation was not stored, left out"] += int(last.sum())
    return episodes_of(source, rows[~last])


def _ends_by_horizon(terminal: np.ndarray, horizon: int) -> np.ndarray:
    """Ends (N,) of episodes that last until a terminal step, but no longer than the horizon."""
    ends = terminal.copy()
    steps = 0
    for row, ended in enumerate(terminal):
        steps += 1
        if ended or steps == horizon:
            ends[row], steps = True, 0
    return ends
