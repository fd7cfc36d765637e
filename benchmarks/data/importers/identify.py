"""Which task of the meta-environment each task of a source is.

A number alone does not tell: programs number tasks of their own. Parameters that a source states have to be those of a
task here, to the precision in which it states them. Where it states none, its numbers are taken, unless the format is
known to have tasks of its own. Either way the steps of point robots and the rewards of cheetahs are compared with what
the task gives; the observations of ants and walkers do not tell the velocity that is rewarded. `by_number` leaves all
of this out, for data of other tasks, and the dataset says so.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from omrlbench.data.episodes import DatasetError, naming
from omrlbench.data.importers.source import Episode, Source, SourceTask
from omrlbench.envs.point_robot import goals_and_winds, move, rewards_at
from omrlbench.envs.registry import MetaEnvSpec

POINT_ROBOT = "omrlbench.envs.point_robot:PointRobotEnv"
AGREEMENT = 1e-4  # of positions and rewards of point robots
TORSO_X = 17  # column of a cheetah's observation
VELOCITY_AGREEMENT = 0.3  # m/s, of the median step: older simulators observed the torso 0.01 s late, worth up to 0.1
BY_NUMBER = "by number, as asked for; they may be others than those here"
COMPARED = "by comparing the data with what the task gives"
STATED = "by the parameters that the source states"
NUMBERED = "by number, not compared"


def task_id(source: Source, task: SourceTask) -> int:
    """Raises DatasetError where no task of the meta-environment is the source's."""
    spec, place = source.spec, task.files[0]
    if not source.by_number and task.parameters is not None:
        return _of_parameters(source, task)
    if not source.by_number and task.foreign:
        raise DatasetError(f"{place}: {task.foreign}, not those of {spec.name}; --by-number takes them all the same")
    if not 0 <= task.number < len(spec.tasks):
        raise DatasetError(f"{place}: is of task {task.number}, {spec.name} has tasks 0 to {len(spec.tasks) - 1}")
    return task.number


def _of_parameters(source: Source, task: SourceTask) -> int:
    spec, place = source.spec, task.files[0]
    with naming(place):
        values = _values(spec, task.parameters)
    if values is None:
        matching = np.empty(0, int)
    else:
        matching = np.flatnonzero((np.abs(spec.tasks.parameters - values) <= task.precision).all(1))
    if len(matching) > 1:
        raise DatasetError(f"{place}: its goal is that of tasks {matching[0]} and {matching[1]} of {spec.name}")
    if not len(matching):
        raise DatasetError(
            f"{place}: its parameters are of no task of {spec.name}; --by-number takes its tasks by their numbers"
        )
    return int(matching[0])


def _values(spec: MetaEnvSpec, parameters: Any) -> np.ndarray | None:
    """The parameters in the order of the task set (n_parameters,), None where they are others."""
    names = spec.tasks.parameter_names
    if isinstance(parameters, dict):
        if set(parameters) != set(names):
            return None
        parameters = [parameters[name] for name in names]
    values = np.asarray(parameters, np.float64).reshape(-1)
    return values if len(values) == len(names) else None


def identified(source: Source, task: SourceTask) -> str:
    """In words, for the metadata."""
    if source.by_number:
        return BY_NUMBER
    if source.spec.entry_point == POINT_ROBOT or _is_cheetah(source.spec):
        return COMPARED
    return NUMBERED if task.parameters is None else STATED


def check_task(source: Source, task: SourceTask, task_id: int, episodes: Sequence[Episode]) -> None:
    """Raise DatasetError unless point robots and cheetahs do what they do in the task. Others are not checked.

    By number, the rewards of point robots still have to be possible: the dense ones are the negative distance.
    """
    spec, reason = source.spec, ""
    if source.by_number and spec.entry_point == POINT_ROBOT:
        reason = "rewards are positive, so not the dense ones" if _any_positive(episodes) else ""
    elif not source.by_number and spec.entry_point == POINT_ROBOT:
        reason = next(filter(None, (_point_robot_differs(spec, task_id, episode) for episode in episodes)), "")
    elif not source.by_number and _is_cheetah(spec):
        reason = _cheetah_differs(spec, task_id, episodes)
    if reason:
        raise DatasetError(f"{task.files[0]}: {reason} of task {task_id} of {spec.name}")


def _any_positive(episodes: Sequence[Episode]) -> bool:
    return any((episode.rewards > AGREEMENT).any() for episode in episodes)


def _point_robot_differs(spec: MetaEnvSpec, task_id: int, episode: Episode) -> str:
    goal, wind = (np.tile(values, (len(episode.rewards), 1)) for values in goals_and_winds(spec, [task_id]))
    arrivals = move(episode.observations, episode.actions, wind)
    if np.abs(arrivals - episode.next_observations).max() > AGREEMENT:
        return "its steps (see --by-number and --action-scale) are not those"
    rewards = rewards_at(episode.next_observations, goal)["dense"]
    if np.abs(rewards - episode.rewards).max() > AGREEMENT:
        return "its rewards (see --by-number) are not the dense ones"
    return ""


def _is_cheetah(spec: MetaEnvSpec) -> bool:
    from omrlbench.envs.half_cheetah import HalfCheetah

    return spec.locomotion is not None and isinstance(spec.family(), HalfCheetah)


def _cheetah_differs(spec: MetaEnvSpec, task_id: int, episodes: Sequence[Episode]) -> str:
    family = spec.family()
    differences = []
    for episode in episodes:
        distance = (episode.next_observations - episode.observations)[:, TORSO_X]
        rewards = family.reward(spec.tasks.parameters[[task_id]], distance / family.dt, episode.actions)
        differences.append(np.abs(rewards - episode.rewards))
    median = np.median(np.concatenate(differences))
    return f"its rewards (see --by-number) differ by {median:.2f} from those" if median > VELOCITY_AGREEMENT else ""


def rewards_by_kind(spec: MetaEnvSpec, rewards: np.ndarray) -> dict[str, np.ndarray]:
    """The rewards (T,) of every kind that the meta-environment reports, from the one of the source, the dense.

    The sparse reward of a point robot follows from the dense one, which is the negative distance.
    """
    if spec.entry_point != POINT_ROBOT:
        return {spec.reward: rewards}
    return rewards_at(np.stack([-rewards, np.zeros_like(rewards)], 1), np.zeros(2))
