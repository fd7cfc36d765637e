"""MACAW: one HDF5 file per task, `buffers_<env>_train_<k>_sub_task_0.hdf5`.

- Inside a trajectory rows run from the last step to the first; trajectories are in the order of collection. All rows
  are turned along the first axis, and then the trajectories back. A file in the order of time is refused.
- A trajectory's last step is the row with `terminal_discounts` equal to `discount_factor`. `terminals` mark time limits
  as well and may be missing, so they do not separate trajectories: they tell how one ended. See `episodes_of`.
- The buffer is a ring. Where it wrapped, a trajectory is in two places and another has lost its last steps: each piece
  is an episode that ends by truncation.
- `mc_rewards`, `terminal_obs` and the discounts belong to the source's discount and are not kept. Actions and
  observations are the environment's own, which on these robots are the policy's.
- The parameters of the tasks are in `env_<env>_train_task<k>.pkl`, a pickled list of one dictionary. Without pickles
  tasks can only be taken by number. The velocities are spaced evenly from 0.075 to 3, so none of cheetah_vel's; the
  walkers are given by masses, not by multipliers.
"""

from pathlib import Path
from typing import Any

import numpy as np

from omrlbench.data.episodes import DatasetError
from omrlbench.data.importers.source import (
    Episode,
    Source,
    SourceTask,
    as_numbers,
    episodes_of,
    make_rows,
    numbered,
    read_columns,
)
from omrlbench.data.importers.unpickle import read_pickle

COLUMNS = ("obs", "actions", "rewards", "next_obs", "terminals", "terminal_discounts", "discount_factor")
UNSTATED = "no env_*_train_task<k>.pkl states its parameters"


def tasks(source: Source) -> list[SourceTask]:
    what = "file buffers_<env>_train_<k>_sub_task_0.hdf5"
    found = numbered(source.path, r"buffers_.+_train_(\d+)(?:_sub_task_0)?\.hdf5", what)
    return [_task(source, number, file) for number, file in found.items()]


def _task(source: Source, number: int, file: Path) -> SourceTask:
    stated = sorted(source.path.glob(f"env_*_train_task{number}.pkl"))
    if stated and not (source.allow_pickle or source.by_number):
        raise DatasetError(
            f"{stated[0]}: states the task in a pickle; --allow-pickle reads it, --by-number does without it"
        )
    read = bool(stated) and source.allow_pickle
    return SourceTask(
        number,
        (file, *stated) if read else (file,),
        lambda: _episodes(source, file),
        parameters=_parameters(source, stated[0]) if read else None,
        foreign="" if stated else UNSTATED,
    )


def _parameters(source: Source, file: Path) -> dict[str, Any]:
    content = read_pickle(file, source.allow_pickle)
    if not (isinstance(content, list) and len(content) == 1 and isinstance(content[0], dict)):
        raise DatasetError(f"{file}: is not a list of one dictionary")
    return content[0]


def _episodes(source: Source, file: Path) -> list[Episode]:
    columns = read_columns(file, COLUMNS)
    discounts = as_numbers(file, "terminal_discounts", columns["terminal_discounts"]).reshape(-1)
    discount = float(columns["discount_factor"])
    rows = make_rows(
        source,
        file,
        observations=columns["obs"],
        actions=columns["actions"],
        rewards=columns["rewards"],
        next_observations=columns["next_obs"],
        ends=np.isclose(discounts, discount, rtol=1e-6),
        terminal=columns["terminals"],
    )
    follows = (rows.next_observations[:-1] == rows.observations[1:]).all(-1).sum()
    precedes = (rows.next_observations[1:] == rows.observations[:-1]).all(-1).sum()
    if follows > precedes:
        raise DatasetError(f"{file}: rows are in the order of time, those of MACAW are not")
    return episodes_of(source, rows[::-1])[::-1]
