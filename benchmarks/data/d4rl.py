"""The data in the form of D4RL (Fu et al. 2020), for programs written for its functions of the same names."""

from collections.abc import Iterator, Sequence

import numpy as np

from omrlbench.data.dataset import MultiTaskDataset
from omrlbench.data.store import load_dataset
from omrlbench.envs.references import normalized_score


def qlearning_dataset(
    env: str,
    level: str | None = None,
    *,
    task_id: int | Sequence[int] | None = None,
    reward: str | None = None,
    dataset: MultiTaskDataset | None = None,
    **load_options,
) -> dict[str, np.ndarray]:
    """Transitions of one task, of several one after the other, or (None) of all, episode after episode.

    With N transitions: `observations` and `next_observations` (N, observation_dim), `actions` (N, action_dim) and
    `rewards` (N,), all float32; `terminals` (N,) bool, where the episode really ended; `timeouts` (N,) bool, at the
    last step before a time limit. Unlike D4RL's own function it keeps the last step of an episode, since its next
    observation is known. Tasks differ in their rewards or dynamics and the transitions do not tell which they are of.

    `level` is by default the environment's. `reward` is one of its kinds ("dense"; of point robots also "sparse"), by
    default its own. `dataset` saves loading it again where several calls use it; `load_options` go to `load_dataset`.
    Raises ValueError for an unknown task or reward and for a `dataset` of another environment or level.
    """
    dataset = dataset or load_dataset(env, level, **load_options)
    spec = dataset.spec
    wanted = (env, spec.default_level if level is None else level)
    if (spec.name, dataset.level) != wanted:
        raise ValueError(f"the dataset given is {spec.name} {dataset.level}, not {' '.join(wanted)}")
    reward = reward or spec.reward
    if reward not in dataset.rewards:
        raise ValueError(f"unknown reward {reward!r}, choose from {', '.join(dataset.rewards)}")
    tasks = spec.check_task_ids(range(len(spec.tasks)) if task_id is None else np.atleast_1d(task_id))
    rows = np.concatenate(
        [np.arange(dataset.task_start[k], dataset.task_start[k] + dataset.task_size[k]) for k in tasks]
    )
    columns = {
        "observations": dataset.observations,
        "actions": dataset.actions,
        "next_observations": dataset.next_observations,
        "rewards": dataset.rewards[reward],
        "terminals": dataset.terminated,
        "timeouts": dataset.truncated,
    }
    return {name: values.numpy()[rows] for name, values in columns.items()}


def sequence_dataset(env: str, level: str | None = None, **options) -> Iterator[dict[str, np.ndarray]]:
    """The episodes of `qlearning_dataset(env, level, **options)`, each a dict of the same keys of length T."""
    columns = qlearning_dataset(env, level, **options)
    ends = np.flatnonzero(columns["terminals"] | columns["timeouts"]) + 1
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        yield {name: values[start:end] for name, values in columns.items()}


def get_normalized_score(env: str, mean_return: float | np.ndarray, split: str = "test") -> float | np.ndarray:
    """Score of a mean return over the tasks of `split`: 0 is the random policy, 1 the expert (not 100)."""
    return normalized_score(env, split, mean_return)
