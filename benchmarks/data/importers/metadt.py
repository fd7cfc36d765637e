"""Meta-DT: `dataset_task_<k>.pkl`, one pickle per task.

- The pickle is an OrderedDict of observations, actions, rewards, next_observations, terminals and masks. Those of the
  cheetah's directions at medium quality are called states, next_states and dones instead.
- `masks` are false where the environment ended the episode. `terminals` may be true at a time limit too, and are all
  false where the environment never ends one. The authors cut every N steps all the same: see `episodes_of`.
- The buffer is a ring: the last episode may have overwritten the first steps. Its pieces are episodes of their own.
- `dataset_task_prompt<k>.pkl` are demonstrations for prompts: counted and left out.
- The goals are in `task_info.json`, or in parts of it, `task_info_<first>.json`, that the authors merge by hand; its
  return_scale is not used. Goals of point robots lie in a square, so none is a task here.
- Actions are in the environment's own range, which of the point robot is 0.1: `--action-scale 0.1`.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from omrlbench.data.episodes import DatasetError, naming
from omrlbench.data.importers.source import (
    Episode,
    Source,
    SourceTask,
    as_flags,
    check_columns,
    episodes_of,
    make_rows,
    numbered,
)
from omrlbench.data.importers.unpickle import check_allowed, read_pickle

COLUMNS = ("observations", "actions", "rewards", "next_observations", "terminals")
OTHER_NAMES = {"states": "observations", "next_states": "next_observations", "dones": "terminals"}
UNSTATED = "no task_info.json states its goal"


def tasks(source: Source) -> list[SourceTask]:
    found = numbered(source.path, r"dataset_task_(\d+)\.pkl", "file dataset_task_<k>.pkl")
    stated = sorted(source.path.glob("task_info*.json"))
    about = {key: value for file in stated for key, value in _read_json(file).items()}
    prompts = source.path.glob("dataset_task_prompt*.pkl")
    source.remarks["files of prompts, left out"] += len(list(prompts))
    return [_task(source, number, file, stated, about.get(f"task {number}")) for number, file in found.items()]


def _read_json(file: Path) -> dict[str, Any]:
    with naming(file):
        return dict(json.loads(file.read_text()))


def _task(source: Source, number: int, file: Path, stated: list[Path], about: dict[str, Any] | None) -> SourceTask:
    check_allowed(file, source.allow_pickle)
    parameters = {name: value for name, value in (about or {}).items() if name != "return_scale"}
    return SourceTask(
        number,
        (file, *stated),
        lambda: _episodes(source, file),
        parameters=parameters.get("goal", parameters) or None,
        foreign="" if parameters else UNSTATED,
    )


def _episodes(source: Source, file: Path) -> list[Episode]:
    content = read_pickle(file, source.allow_pickle)
    if not isinstance(content, dict):
        raise DatasetError(f"{file}: is not a dictionary of arrays")
    columns = {OTHER_NAMES.get(name, name): values for name, values in content.items()}
    check_columns(file, COLUMNS, columns)
    done = as_flags(file, columns["terminals"], len(columns["observations"]))
    goes_on = as_flags(file, columns["masks"], len(done)) if "masks" in columns else np.zeros(len(done), bool)
    rows = make_rows(
        source,
        file,
        observations=columns["observations"],
        actions=columns["actions"],
        rewards=columns["rewards"],
        next_observations=columns["next_observations"],
        ends=done,
        terminal=done & ~goes_on,
    )
    return episodes_of(source, rows)
