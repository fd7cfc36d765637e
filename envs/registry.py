"""The table of meta-environments. Adding one is a row here, a task set, and a family file beside this one.

Other packages add theirs by an entry point of the group `omrlbench.envs` that is a `MetaEnvSpec`, for example

    [project.entry-points."omrlbench.envs"]
    my_env = "my_package.my_env:SPEC"
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from importlib.metadata import EntryPoint
from pkgutil import resolve_name
from reprlib import repr as short_repr
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import VectorEnv

from omrlbench.envs.tasks import TaskSet, load_task_set
from omrlbench.plugins import distributions, load_plugin, origin, plugins

GROUP = "omrlbench.envs"
LEVELS = ("random", "medium", "expert", "mixed")


@dataclass(frozen=True)
class MetaEnvSpec:
    """One meta-environment: a distribution of tasks that share observation and action space.

    `entry_point`, `vector_entry_point` and `oracle` are "module:name" strings, loaded when first used, and so is
    `locomotion`, the rules of a MuJoCo family. `rewards` are the kinds of reward that a step reports, `reward` the
    environment's own among them. `default_level` is the level of the FOCAL paper's data. With
    `standardize_observations` methods see observations of mean 0 and standard deviation 1. `behavior` names the shipped
    behaviour policies; meta-environments that differ in nothing but their reward share them. `learner_defaults` are the
    values that the papers fix per environment for every method (discount, size of the embedding); a method takes those
    it has a field for. `plane` marks the point robots, whose pictures show the plane. `resources` is the package whose
    folder holds `task_sets/<task_set>.json`, `references.json` and `policies/`, by default this one's;
    `behavior_values` are then the settings of the behaviour policies' training. `revision` is bumped by whoever changes
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
    rewards: tuple[str, ...] = ("dense",)
    default_level: str = "expert"
    standardize_observations: bool = False
    locomotion: str | None = None
    learner_defaults: dict[str, Any] = field(default_factory=dict)
    plane: bool = False
    resources: str | None = None
    behavior_values: dict[str, Any] = field(default_factory=dict)
    revision: int = 1
    description: str = ""

    @property
    def tasks(self) -> TaskSet:
        return load_task_set(self.task_set, self.resources or "omrlbench.envs")

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

    def make_vector(self, task_ids: Sequence[int], **options) -> VectorEnv:
        """One member per entry of `task_ids` (repetition allowed), stepped together.

        Without autoreset: a member whose episode has ended waits for `reset(options={"reset_mask": mask})`.
        """
        return resolve_name(self.vector_entry_point)(self, task_ids, **options)

    def family(self) -> Any:
        """The rules of a MuJoCo family, a `locomotion.Locomotion`, shared by all that ask."""
        return _family(self.locomotion)

    def oracle_policy(self, task_ids: Sequence[int]) -> Callable[[np.ndarray], np.ndarray]:
        """The controller that is told the task: maps observations (n, obs_dim) to actions (n, action_dim)."""
        return resolve_name(self.oracle)(self, task_ids)


@cache
def _family(name: str) -> Any:
    return resolve_name(name)()


def task_option(options: dict[str, Any] | None) -> Any:
    """The `task_id` among the options of `reset`, None without one. Raises ValueError at an unknown option."""
    unknown = sorted(set(options or {}) - {"task_id", "reset_mask"})
    if unknown:
        raise ValueError(f"unknown reset option {unknown[0]!r}, there are 'task_id' and, for vectors, 'reset_mask'")
    return (options or {}).get("task_id")


def reset_mask(options: dict[str, Any] | None, members: int) -> np.ndarray:
    """The `reset_mask` (members,) among the options of `reset`, all true without one. Raises ValueError at a misfit."""
    mask = np.asarray((options or {}).get("reset_mask", np.ones(members, bool)))
    if mask.shape != (members,) or mask.dtype != bool:
        raise ValueError(f"reset_mask is a bool array of shape ({members},), got {mask.dtype} {mask.shape}")
    return mask


def member_tasks(task_ids: int | Sequence[int], members: int) -> np.ndarray:
    """The task of each member (members,), of one for all or one each. Raises ValueError at another number of tasks."""
    ids = np.full(members, task_ids) if np.ndim(task_ids) == 0 else np.asarray(task_ids)
    if len(ids) != members:
        raise ValueError(f"task_id is one task or {members} tasks, got {len(ids)}")
    return ids


POINT_ROBOT = {
    "plane": True,
    "entry_point": "omrlbench.envs.point_robot:PointRobotEnv",
    "vector_entry_point": "omrlbench.envs.point_robot:PointRobotVectorEnv",
    "oracle": "omrlbench.envs.point_robot:oracle_policy",
    "behavior_kind": "per_task",
    "rewards": ("dense", "sparse"),
    "learner_defaults": {"discount": 0.9, "latent_dim": 5},  # FOCAL Table 4
}

LOCOMOTION = {
    "entry_point": "omrlbench.envs.locomotion:LocomotionEnv",
    "vector_entry_point": "omrlbench.envs.batched:BatchedEnv",
    "oracle": "omrlbench.data.checkpoints:expert_policy",
    "reward": "dense",
    "horizon": 200,
    "standardize_observations": True,
    "learner_defaults": {"discount": 0.99, "latent_dim": 20},  # FOCAL Table 4
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
        MetaEnvSpec(
            name="cheetah_vel",
            gym_id="omrl/HalfCheetahVel-v0",
            locomotion="omrlbench.envs.half_cheetah:HalfCheetahVel",
            task_set="velocities",
            behavior="cheetah_vel",
            behavior_kind="conditioned",
            description="half-cheetah: run at a velocity between 0 and 3 m/s",
            **LOCOMOTION,
        ),
        MetaEnvSpec(
            name="cheetah_fwd_back",
            gym_id="omrl/HalfCheetahFwdBack-v0",
            locomotion="omrlbench.envs.half_cheetah:HalfCheetahFwdBack",
            task_set="directions_back_forward",
            behavior="cheetah_fwd_back",
            default_level="mixed",
            behavior_kind="per_task",
            description="half-cheetah: run backward or forward",
            **LOCOMOTION | {"learner_defaults": {"discount": 0.99, "latent_dim": 5}},
        ),
        MetaEnvSpec(
            name="ant_fwd_back",
            gym_id="omrl/AntFwdBack-v0",
            locomotion="omrlbench.envs.ant:AntFwdBack",
            task_set="directions_forward_back",
            behavior="ant_fwd_back",
            default_level="mixed",
            behavior_kind="per_task",
            description="ant: run forward or backward",
            **LOCOMOTION,
        ),
        MetaEnvSpec(
            name="walker_params",
            gym_id="omrl/WalkerParams-v0",
            locomotion="omrlbench.envs.walker:WalkerParams",
            task_set="walker_multipliers",
            behavior="walker_params",
            default_level="mixed",
            behavior_kind="conditioned",
            description="planar walker with other masses, inertias, dampings and frictions per task: run forward",
            **LOCOMOTION,
        ),
    )
}


def register(spec: MetaEnvSpec) -> None:
    """Make the gymnasium id of `spec` known, once."""
    if spec.gym_id not in gymnasium.registry:
        gymnasium.register(
            spec.gym_id,
            entry_point=spec.entry_point,
            kwargs={"meta_env": spec.name},
            max_episode_steps=spec.horizon,
        )


def get_meta_env(name: str) -> MetaEnvSpec:
    """The meta-environment called `name`, of this package or another. Raises ValueError with the names that exist."""
    if name in META_ENVS:
        return META_ENVS[name]
    points = plugins(GROUP).get(name)
    if not points:
        names = list(meta_env_origins())
        close = get_close_matches(name, names, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ValueError(f"no meta-environment {name!r}, there are {', '.join(names)}{hint}")
    return _load(tuple(points))


def meta_env_origins() -> dict[str, str]:
    """Every known meta-environment and where it comes from, built-in ones first. Imports none of other packages."""
    built_in = {name: "built in" for name in META_ENVS}
    return built_in | {name: origin(points, name in META_ENVS) for name, points in plugins(GROUP).items()}


def usable_meta_envs() -> list[MetaEnvSpec]:
    """The built-in meta-environments, and those of other packages that can be loaded."""
    found = list(META_ENVS.values())
    for name in meta_env_origins():
        if name not in META_ENVS:
            try:
                found.append(get_meta_env(name))
            except ValueError:
                continue
    return found


@cache
def _load(points: tuple[EntryPoint, ...]) -> MetaEnvSpec:
    spec = load_plugin("meta-environment", points)
    name = points[0].name
    if not isinstance(spec, MetaEnvSpec) or spec.name != name or spec.resources is None:
        raise ValueError(
            f"meta-environment {name!r} of {distributions(points)} is no MetaEnvSpec of that name with resources"
        )
    register(spec)
    return spec
