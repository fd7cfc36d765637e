"""Reading all episodes of a source, and laying them out as the store does."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from omrlbench.data.episodes import ATTRIBUTES, Arrays, DatasetError, checksums, layout, naming
from omrlbench.data.generate import Progress
from omrlbench.data.importers.identify import check_task, identified, rewards_by_kind
from omrlbench.data.importers.source import Episode, Source, SourceTask
from omrlbench.envs.registry import MetaEnvSpec

SMALL_ACTIONS = 0.5  # largest action of a source below which its scale is asked for


@dataclass(frozen=True)
class Collected:
    """All episodes with the task of each, in the order of the tasks, and what each of the source's tasks gave."""

    episodes: list[Episode]
    task_ids: np.ndarray
    tasks: list[dict[str, Any]]


def collect(
    source: Source, found: list[SourceTask], task_ids: list[int], most: int | None, on_progress: Progress
) -> Collected:
    by_task: dict[int, list[Episode]] = {k: [] for k in sorted(task_ids)}
    tasks = []
    for done, (task, k) in enumerate(zip(found, task_ids, strict=True)):
        on_progress("read", done, len(found))
        episodes = _load(source, task, k, most)
        by_task[k].extend(episodes)
        about = {"task": k, "source": _name(source, task), "episodes": len(episodes)}
        about |= {"identified": identified(source, task), "parameters": task.parameters}
        tasks.append(json.loads(json.dumps(about, default=lambda value: np.asarray(value).tolist())))
    _check_scale(source, by_task)
    counts = [len(episodes) for episodes in by_task.values()]
    return Collected([e for episodes in by_task.values() for e in episodes], np.repeat(list(by_task), counts), tasks)


def _load(source: Source, task: SourceTask, task_id: int, most: int | None) -> list[Episode]:
    """The episodes of `task`; of more than `most` so many, evenly spaced."""
    with naming(task.files[0]):
        episodes = task.load()
        if not episodes:
            raise DatasetError(f"{task.files[0]}: holds no whole step")
        check_task(source, task, task_id, episodes)
    count = min(most or len(episodes), len(episodes))
    return [episodes[k] for k in np.linspace(0, len(episodes) - 1, count).round().astype(int)]


def _name(source: Source, task: SourceTask) -> str:
    file = task.files[0]
    return file.relative_to(source.path).parts[0] if source.path.is_dir() else file.name


def _check_scale(source: Source, by_task: dict[int, list[Episode]]) -> None:
    largest = max(float(np.abs(episode.actions).max()) for episodes in by_task.values() for episode in episodes)
    if source.action_scale is None and largest < SMALL_ACTIONS:
        raise DatasetError(
            f"{source.path}: no action exceeds {largest:.2g} of 1; add --action-scale {largest:.2g} if that is the "
            f"largest that the source allows, --action-scale 1 if actions are right as they are"
        )


def to_arrays(spec: MetaEnvSpec, collected: Collected) -> tuple[Arrays, Arrays]:
    """The arrays and attributes of the store, zero after an episode's end."""
    episodes = collected.episodes
    arrays = {name: np.zeros((len(episodes), *shape), dtype) for name, (shape, dtype) in layout(spec).items()}
    for row, episode in enumerate(episodes):
        length = len(episode.rewards)
        rewards = rewards_by_kind(spec, episode.rewards)
        arrays["observations"][row, :length] = episode.observations
        arrays["observations"][row, length] = episode.next_observations[-1]
        arrays["actions"][row, :length] = episode.actions
        arrays["rewards"][row, :length] = rewards[spec.reward]
        for kind, values in rewards.items():
            arrays[f"infos/{kind}_reward"][row, :length] = values
        arrays["terminations" if episode.terminated else "truncations"][row, length - 1] = True
    attributes = {
        "id": np.arange(len(episodes)),
        "total_steps": np.array([len(episode.rewards) for episode in episodes]),
        "options/task_id": collected.task_ids,
        "policy_step": np.array([episode.policy_step for episode in episodes]),
        "return": arrays["rewards"].sum(1, dtype=np.float64),
    }
    attributes = {name: values.astype(ATTRIBUTES[name]) for name, values in attributes.items()}
    return arrays, attributes | {"crc32": checksums(arrays, attributes)}
