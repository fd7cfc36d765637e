"""MBML: `goal_<number>.zip_pkl`, one pickle under gzip per task.

- The pickle is a list of tuples (observation, next observation, action, reward, done, ...): the next observation is
  second, before the action. Reward and done are numbers or arrays of length 1. What follows done (qpos and qvel, or a
  difference of velocities) is not kept.
- Rows are the first N of a replay buffer in the order of time. `done` is the environment's own, time limits are not
  marked: see `episodes_of`. Where collection stopped, an episode may be short without having ended.
- Episodes of the cheetah last 1000 steps, five times the horizon here.
- Actions are in [-1, 1], rewards not scaled.
- The goals are the source's: within a narrower range, and for walkers with other multipliers, so none is a task here.
  Observations of the ants have 111 and 113 numbers and do not fit.
- The folder is `buffers/<domain>/<mode>/max_path_length_<H>/interactions_<N>k/seed_<s>`. What else the authors publish,
  the policies and ensembles, are pickled programs and not read.
"""

from pathlib import Path

from omrlbench.data.episodes import DatasetError
from omrlbench.data.importers.source import Episode, Source, SourceTask, episodes_of, make_rows, numbered
from omrlbench.data.importers.unpickle import check_allowed, read_pickle

OWN_GOALS = "the source has goals of its own"


def tasks(source: Source) -> list[SourceTask]:
    found = numbered(source.path, r"goal_(\d+)\.zip_pkl", "file goal_<number>.zip_pkl")
    return [_task(source, number, file) for number, file in found.items()]


def _task(source: Source, number: int, file: Path) -> SourceTask:
    check_allowed(file, source.allow_pickle)
    return SourceTask(number, (file,), lambda: _episodes(source, file), foreign=OWN_GOALS)


def _episodes(source: Source, file: Path) -> list[Episode]:
    content = read_pickle(file, source.allow_pickle)
    tuples = isinstance(content, list) and all(isinstance(row, tuple) and len(row) >= 5 for row in content)
    if not (tuples and content):
        raise DatasetError(f"{file}: is not a list of tuples (observation, next observation, action, reward, done)")
    observations, next_observations, actions, rewards, done = zip(*(row[:5] for row in content), strict=True)
    rows = make_rows(
        source,
        file,
        observations=observations,
        actions=actions,
        rewards=rewards,
        next_observations=next_observations,
        ends=done,
        terminal=done,
    )
    return episodes_of(source, rows)
