"""The data that methods learn from: all tasks of one (meta-environment, level) as contiguous arrays, and samplers."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from omrlbench.algorithms.algorithm import Context, MetaBatch
from omrlbench.data.behavior import standardised_parameters
from omrlbench.envs.registry import MetaEnvSpec
from omrlbench.envs.tasks import TaskSet
from omrlbench.errors import unknown

if TYPE_CHECKING:
    from omrlbench.interaction import ReplayBuffer


@dataclass(frozen=True)
class MultiTaskDataset:
    """Transitions of every task, episode after episode, task after task.

    With N transitions in all: observations and next_observations (N, observation_dim), actions (N, action_dim),
    all float32; `rewards` maps every kind in `spec.rewards` to (N,); terminated and truncated (N,) bool. The
    transitions of task k are rows `task_start[k]` to `task_start[k] + task_size[k]`, whole episodes one after the
    other, each ending where terminated or truncated is true. `metadata` is the stored description with both
    fingerprints.
    """

    spec: MetaEnvSpec
    level: str
    observations: Tensor
    actions: Tensor
    rewards: dict[str, Tensor]
    next_observations: Tensor
    terminated: Tensor
    truncated: Tensor
    task_start: np.ndarray
    task_size: np.ndarray
    metadata: dict
    observation_mean: Tensor | None = None
    observation_scale: Tensor | None = None

    def __len__(self) -> int:
        return len(self.observations)

    def for_learning(self, scaling: tuple[Tensor, Tensor] | None = None) -> "MultiTaskDataset":
        """The dataset as methods see it: standardised where the meta-environment asks for that, else itself.

        Observations then have mean 0 and standard deviation 1 over the training tasks' transitions, unless `scaling`
        has the mean and scale of other data. The FOCAL authors divide theirs by the largest absolute value instead.
        """
        if not self.spec.standardize_observations:
            return self
        if scaling is not None:
            return self._standardized_by(*scaling)
        start, size = self.task_start, self.task_size
        train = torch.cat([self.observations[start[k] : start[k] + size[k]] for k in self.spec.tasks.splits["train"]])
        scale, mean = torch.std_mean(train.double(), 0)
        scale = torch.where(scale > 1e-6, scale, 1.0)  # a constant coordinate stays as it is
        return self._standardized_by(mean.float(), scale.float())

    def as_contexts_for(self, learning: "MultiTaskDataset") -> "MultiTaskDataset":
        """These data as a method sees them that learns from `learning`, of the same meta-environment."""
        seen = replace(self, spec=learning.spec)
        if learning.observation_mean is None:
            return seen
        return seen._standardized_by(learning.observation_mean, learning.observation_scale)

    def _standardized_by(self, mean: Tensor, scale: Tensor) -> "MultiTaskDataset":
        seen = replace(self, observation_mean=mean, observation_scale=scale)
        return replace(
            seen,
            observations=seen.standardized(self.observations),
            next_observations=seen.standardized(self.next_observations),
        )

    def standardized(self, observations: Tensor) -> Tensor:
        """`observations` (..., observation_dim) of the environment as methods see them."""
        if self.observation_mean is None:
            return observations
        return (observations - self.observation_mean) / self.observation_scale

    def episodes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Task, number of steps and return of the environment's own reward of every episode, each (episodes,)."""
        ends = np.flatnonzero((self.terminated | self.truncated).numpy()) + 1
        starts = np.concatenate([[0], ends[:-1]])
        returns = np.add.reduceat(self.rewards[self.spec.reward].numpy(), starts, dtype=np.float64)
        return np.searchsorted(self.task_start, starts, "right") - 1, ends - starts, returns

    def context(self, rows: Tensor) -> Context:
        """The transitions at `rows` (n, k) with the environment's own reward."""
        own = self.rewards[self.spec.reward]
        return Context(self.observations[rows], self.actions[rows], own[rows], self.next_observations[rows])

    def draw_rows(self, task_ids: np.ndarray, count: int, generator: np.random.Generator) -> Tensor:
        """Rows (n, count) drawn uniformly with replacement from each task of `task_ids` (n,)."""
        offsets = (generator.random((len(task_ids), count)) * self.task_size[task_ids, None]).astype(np.int64)
        return torch.from_numpy(self.task_start[task_ids, None] + offsets)

    def draw_batch_rows(
        self, task_ids: np.ndarray, transitions: int, context_size: int, generator: np.random.Generator
    ) -> tuple[Tensor, ...]:
        """Rows of a batch of `task_ids` (n,), and of two contexts: (n, transitions), (n, context_size) twice."""
        counts = (transitions, context_size, context_size)
        return self.draw_rows(task_ids, sum(counts), generator).split(counts, dim=1)

    def draw_context(self, task_ids: Sequence[int], size: int, generators: Sequence[np.random.Generator]) -> Context:
        """One context of `size` i.i.d. transitions per entry of `task_ids`, each from the generator beside it."""
        rows = [self.draw_rows(np.array([k]), size, g) for k, g in zip(task_ids, generators, strict=True)]
        return self.context(torch.cat(rows))


@dataclass(frozen=True)
class PartialSpec(MetaEnvSpec):
    """A meta-environment whose splits list only the tasks `with_data`."""

    with_data: frozenset[int] = frozenset()

    @property
    def tasks(self) -> TaskSet:
        tasks = super().tasks
        splits = {split: tuple(k for k in ids if k in self.with_data) for split, ids in tasks.splits.items()}
        return replace(tasks, splits=splits)


def partial_spec(spec: MetaEnvSpec, with_data: Iterable[int]) -> PartialSpec:
    values = {f.name: getattr(spec, f.name) for f in fields(spec)}
    return PartialSpec(**values, with_data=frozenset(with_data))


class MetaBatchSampler:
    """Draws meta-batches of distinct tasks, by default the training tasks, from logs or a replay buffer.

    `generator` is the only state. `rl_reward`, a kind in `spec.rewards`, selects the learner's reward; contexts always
    hold the environment's own. Raises BenchError for another kind, and ValueError if `meta_batch` exceeds the number of
    tasks, since those in a batch are distinct.
    """

    def __init__(
        self,
        dataset: "MultiTaskDataset | ReplayBuffer",
        rl_reward: str,
        meta_batch: int,
        transitions: int,
        context_size: int,
        privileged: bool,
        generator: np.random.Generator,
        task_ids: Sequence[int] | None = None,
    ):
        self.dataset, self.generator = dataset, generator
        self.transitions, self.context_size = transitions, context_size
        self.task_ids = np.array(dataset.spec.tasks.splits["train"] if task_ids is None else task_ids)
        if meta_batch > len(self.task_ids):
            raise ValueError(f"meta_batch {meta_batch} exceeds the {len(self.task_ids)} tasks to draw from")
        self.meta_batch = meta_batch
        if rl_reward not in dataset.rewards:
            raise unknown(f"rl_reward of {dataset.spec.name}", rl_reward, dataset.rewards)
        self.rewards = dataset.rewards[rl_reward]
        self.task_parameters = standardised_parameters(dataset.spec.tasks) if privileged else None

    def sample(self) -> MetaBatch:
        return self.batch(self.draw_positions())

    def draw_positions(self) -> np.ndarray:
        """Positions (meta_batch,) of distinct tasks among those that it draws."""
        return self.generator.choice(len(self.task_ids), self.meta_batch, replace=False)

    def batch(self, positions: np.ndarray) -> MetaBatch:
        data, tasks = self.dataset, self.task_ids[positions]
        sizes = self.transitions, self.context_size
        rows, *context_rows = data.draw_batch_rows(tasks, *sizes, self.generator)
        return MetaBatch(
            tasks=torch.from_numpy(positions),
            observations=data.observations[rows],
            actions=data.actions[rows],
            rewards=self.rewards[rows],
            next_observations=data.next_observations[rows],
            terminated=data.terminated[rows].float(),
            contexts=tuple(data.context(r) for r in context_rows),
            task_parameters=None if self.task_parameters is None else self.task_parameters[tasks],
        )
