"""The table of meta-environments. Adding one is a row here, a task set, and a family file beside this one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pkgutil import resolve_name
from reprlib import repr as short_repr
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import VectorEnv

from omrlbench.envs.tasks import TaskSet, load_task_set

LEVELS = ("random", "medium", "expert", "mixed")


@dataclass(frozen=True)
class MetaEnvSpec:
    """One meta-environment: a distribution of tasks that share observation and action space.

    `entry_point`, `vector_entry_point` and `oracle` are "module:name" strings, loaded when first used.
    `behavior` names the shipped behaviour policies; meta-environments that differ in nothing but their reward
    share them. `learner_defaults` are the values that the papers fix per environment for every method (the
    discount, for one); a method takes those it has a field for. `revision` is bumped by whoever changes
    returns.
    """

    name: str
    gym_id: str
    entry_point: str
    vector_entry_point: str
    oracle: str
    reward: str
    task_set: str
    horizon: int
    behavior: str
    behavior_kind: str
    learner_defaults: dict[str, Any] = field(default_factory=dict)
    revision: int = 1
    description: str = ""

    @property
    def tasks(self) -> TaskSet:
        return load_task_set(self.task_set)

    def check_task_ids(self, task_ids: Sequence[int]) -> np.ndarray:
        """`task_ids` as an integer array (n,). Raises ValueError if there is none or one is not a task."""
        ids = np.asarray(task_ids)
        last = len(self.tasks) - 1
        integers = ids.ndim == 1 and ids.dtype.kind in "iu"
        wrong = ids[(ids < 0) | (ids > last)] if integers else ids
        if wrong.size or not ids.size:
            raise ValueError(f"task ids of {self.name} are integers from 0 to {last}, got {short_repr(wrong.tolist())}")
        return ids

    def make(self, task_id: int, render_mode: str | None = None) -> gymnasium.Env:
        """The single environment of one task, with its time limit."""
        return gymnasium.make(self.gym_id, task_id=task_id, render_mode=render_mode)

    def make_vector(self, task_ids: Sequence[int]) -> VectorEnv:
        """One member per entry of `task_ids` (repetition allowed), stepped together."""
        return resolve_name(self.vector_entry_point)(self, task_ids)

    def oracle_policy(self, task_ids: Sequence[int]) -> Callable[[np.ndarray], np.ndarray]:
        """The controller that is told the task: maps observations (n, obs_dim) to actions (n, action_dim)."""
        return resolve_name(self.oracle)(self, task_ids)


POINT_ROBOT = {
    "entry_point": "omrlbench.envs.point_robot:PointRobotEnv",
    "vector_entry_point": "omrlbench.envs.point_robot:PointRobotVectorEnv",
    "oracle": "omrlbench.envs.point_robot:oracle_policy",
    "behavior_kind": "per_task",
    "learner_defaults": {"discount": 0.9},  # FOCAL Table 4
}

META_ENVS: dict[str, MetaEnvSpec] = {
    spec.name: spec
    for spec in (
        MetaEnvSpec(
            name="sparse_point_robot",
            gym_id="omrl/SparsePointRobot-v0",
            reward="sparse",
            task_set="half_circle",
            horizon=20,
            behavior="point_robot",
            description="reach a goal on the half circle; reward 1 - distance within 0.2 of it, else 0",
            **POINT_ROBOT,
        ),
        MetaEnvSpec(
            name="point_robot",
            gym_id="omrl/PointRobot-v0",
            reward="dense",
            task_set="half_circle",
            horizon=20,
            behavior="point_robot",
            description="the same goals with reward -distance",
            **POINT_ROBOT,
        ),
        MetaEnvSpec(
            name="point_robot_wind",
            gym_id="omrl/PointRobotWind-v0",
            reward="dense",
            task_set="wind",
            horizon=25,
            behavior="point_robot_wind",
            description="reach (1, 0) under a constant wind that differs per task; reward -distance",
            **POINT_ROBOT,
        ),
    )
}


def get_meta_env(name: str) -> MetaEnvSpec:
    """The meta-environment called `name`. Raises ValueError with the names that exist."""
    if name not in META_ENVS:
        close = get_close_matches(name, META_ENVS, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ValueError(f"no meta-environment {name!r}, there are {', '.join(META_ENVS)}{hint}")
    return META_ENVS[name]
