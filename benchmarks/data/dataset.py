"""The data that methods learn from: all tasks of one (meta-environment, level) as contiguous arrays, and samplers."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from omrlbench.algorithms.algorithm import Context, MetaBatch
from omrlbench.data.behavior import standardised_parameters
from omrlbench.envs.registry import MetaEnvSpec


@dataclass(frozen=True)
class MultiTaskDataset:
    """Transitions of every task, episode after episode, task after task.

    With N transitions in all: observations and next_observations (N, observation_dim), actions (N, action_dim),
    all float32; `rewards` maps "dense" and "sparse" to (N,); terminated and truncated (N,) bool. The transitions of
    task k are rows `task_start[k]` to `task_start[k] + task_size[k]`, whole episodes one after the other, each ending
    where terminated or truncated is true. `metadata` is the stored description with both fingerprints.
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

    def __len__(self) -> int:
        return len(self.observations)

    def context(self, rows: Tensor) -> Context:
        """The transitions at `rows` (n, k) with the environment's own reward."""
        own = self.rewards[self.spec.reward]
        return Context(self.observations[rows], self.actions[rows], own[rows], self.next_observations[rows])

    def draw_rows(self, task_ids: np.ndarray, count: int, generator: np.random.Generator) -> Tensor:
        """Rows (n, count) drawn uniformly with replacement from each task of `task_ids` (n,)."""
        offsets = (generator.random((len(task_ids), count)) * self.task_size[task_ids, None]).astype(np.int64)
        return torch.from_numpy(self.task_start[task_ids, None] + offsets)

    def draw_context(self, task_ids: Sequence[int], size: int, generators: Sequence[np.random.Generator]) -> Context:
        """One context of `size` i.i.d. transitions per entry of `task_ids`, each from the generator beside it."""
        rows = [self.draw_rows(np.array([k]), size, g) for k, g in zip(task_ids, generators, strict=True)]
        return self.context(torch.cat(rows))


class MetaBatchSampler:
    """Draws meta-batches of distinct training tasks; `generator` is the only state.

    `rl_reward` ("dense" or "sparse") selects the learner's reward; contexts always hold the environment's own.
    Raises ValueError if `meta_batch` exceeds the number of training tasks, since tasks in a batch are distinct.
    """

    def __init__(
        self,
        dataset: MultiTaskDataset,
        rl_reward: str,
        meta_batch: int,
        transitions: int,
        context_size: int,
        privileged: bool,
        generator: np.random.Generator,
    ):
        self.dataset, self.generator = dataset, generator
        self.transitions, self.context_size = transitions, context_size
        self.train_tasks = np.array(dataset.spec.tasks.splits["train"])
        if meta_batch > len(self.train_tasks):
            raise ValueError(f"meta_batch {meta_batch} exceeds the {len(self.train_tasks)} training tasks")
        self.meta_batch = meta_batch
        self.rewards = dataset.rewards[rl_reward]
        self.task_parameters = standardised_parameters(dataset.spec.tasks) if privileged else None

    def sample(self) -> MetaBatch:
        tasks = self.generator.choice(self.train_tasks, self.meta_batch, replace=False)
        counts = (self.transitions, self.context_size, self.context_size)
        rows, *context_rows = self.dataset.draw_rows(tasks, sum(counts), self.generator).split(counts, dim=1)
        data = self.dataset
        return MetaBatch(
            observations=data.observations[rows],
            actions=data.actions[rows],
            rewards=self.rewards[rows],
            next_observations=data.next_observations[rows],
            terminated=data.terminated[rows].float(),
            contexts=tuple(data.context(r) for r in context_rows),
            task_parameters=None if self.task_parameters is None else self.task_parameters[tasks],
        )
