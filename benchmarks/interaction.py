"""What methods collect themselves: episodes in training tasks, kept in a replay buffer and drawn like logged data."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from omrlbench.algorithms.algorithm import Algorithm, Context, MetaBatch
from omrlbench.config import RunConfig
from omrlbench.data.dataset import MetaBatchSampler, MultiTaskDataset
from omrlbench.envs.vector import RewardFree
from omrlbench.evaluation import Rollout, Stream, generator, roll_out


class ReplayBuffer:
    """Transitions in the order of their collection, with the tensors of a `MultiTaskDataset` and drawn like its.

    `rows` holds the rows of each task; `recent` those that contexts are drawn from, of the last collection in the task
    (PEARL's program keeps these in a second buffer). Rows from `stored` on are empty.
    """

    def __init__(self, logs: MultiTaskDataset, capacity: int):
        """Empty, with room for `capacity` transitions of the meta-environment of `logs`, on their device."""

        def like(column: Tensor) -> Tensor:
            return column.new_empty((capacity, *column.shape[1:]))

        self.spec, self.standardized = logs.spec, logs.standardized
        self.observations, self.next_observations = like(logs.observations), like(logs.next_observations)
        self.actions, self.terminated = like(logs.actions), like(logs.terminated)
        self.rewards = {kind: like(reward) for kind, reward in logs.rewards.items()}
        self.rows: dict[int, np.ndarray] = {}
        self.recent: dict[int, np.ndarray] = {}
        self.stored, self.episodes = 0, 0

    def forget(self, task_ids: np.ndarray) -> None:
        """Draw no more contexts from what there is of `task_ids`."""
        for task in task_ids.tolist():
            self.recent[task] = np.empty(0, np.int64)

    def add(self, task_ids: np.ndarray, episodes: Rollout, recent: bool) -> None:
        """Append one episode in each of `task_ids` (n,), up to its end."""
        running = episodes.running
        first, self.stored = self.stored, self.stored + int(running.sum())
        observations, next_observations = episodes.observations[:, :-1], episodes.observations[:, 1:]
        values = {
            "observations": self.standardized(self._on_device(observations[running])),
            "next_observations": self.standardized(self._on_device(next_observations[running])),
            "actions": episodes.actions[running],
            "terminated": episodes.terminated[running],
        }
        values |= {kind: episodes.rewards[kind][running] for kind in self.rewards}
        for name, column in self._columns.items():
            column[first : self.stored] = self._on_device(values[name])
        ends = first + running.sum(1).cumsum()
        rows = np.split(np.arange(first, self.stored), ends[:-1] - first)
        for task, new in zip(task_ids.tolist(), rows, strict=True):
            for known in [self.rows, self.recent] if recent else [self.rows]:
                known[task] = np.concatenate([known.get(task, np.empty(0, np.int64)), new])
        self.episodes += len(task_ids)

    def context(self, rows: Tensor) -> Context:
        """The transitions at `rows` (n, k) with the environment's own reward."""
        own = self.rewards[self.spec.reward]
        return Context(self.observations[rows], self.actions[rows], own[rows], self.next_observations[rows])

    def draw_context_rows(self, task_ids: np.ndarray, count: int, generator: np.random.Generator) -> Tensor:
        """Recent rows (n, count), uniform with replacement, of each of `task_ids` (n,)."""
        return _draw(self.recent, task_ids, count, generator)

    def draw_batch_rows(
        self, task_ids: np.ndarray, transitions: int, context_size: int, generator: np.random.Generator
    ) -> tuple[Tensor, ...]:
        """As of a `MultiTaskDataset`; contexts are of recent transitions."""
        contexts = self.draw_context_rows(task_ids, 2 * context_size, generator)
        return _draw(self.rows, task_ids, transitions, generator), *contexts.split(context_size, dim=1)

    @property
    def _columns(self) -> dict[str, Tensor]:
        names = ("observations", "next_observations", "actions", "terminated")
        return {name: getattr(self, name) for name in names} | self.rewards

    def _on_device(self, values: np.ndarray | Tensor) -> Tensor:
        return torch.as_tensor(values, device=self.observations.device)

    def state_dict(self) -> dict[str, Any]:
        return {
            "columns": {name: column[: self.stored].clone() for name, column in self._columns.items()},
            "rows": {task: torch.from_numpy(rows) for task, rows in self.rows.items()},
            "recent": {task: torch.from_numpy(rows) for task, rows in self.recent.items()},
            "episodes": self.episodes,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, column in self._columns.items():
            self.stored = len(state["columns"][name])
            column[: self.stored] = state["columns"][name]
        self.rows = {task: rows.numpy() for task, rows in state["rows"].items()}
        self.recent = {task: rows.numpy() for task, rows in state["recent"].items()}
        self.episodes = state["episodes"]


def _draw(rows: dict[int, np.ndarray], task_ids: np.ndarray, count: int, generator: np.random.Generator) -> Tensor:
    """(n, count) of the `rows` of each of `task_ids` (n,), uniform with replacement."""
    shares = generator.random((len(task_ids), count))
    chosen = [rows[task][(len(rows[task]) * share).astype(int)] for task, share in zip(task_ids, shares, strict=True)]
    return torch.from_numpy(np.stack(chosen))


class CollectingSampler:
    """Draws meta-batches from what `algorithm` collects in the training tasks, and from logs if it learns from both.

    Every `collection_interval` batches it collects, in tasks drawn anew, as PEARL does. What is random in a collection
    derives from the run's seed and the number of the collection.
    """

    def __init__(
        self,
        config: RunConfig,
        logs: MultiTaskDataset,
        algorithm: Algorithm,
        drawing: Callable[[MultiTaskDataset | ReplayBuffer, int], MetaBatchSampler],
    ):
        """`drawing(data, transitions)` draws batches of so many transitions per task from `data`."""
        self.seed, self.config, self.logs, self.algorithm = config.seed, config.algorithm, logs, algorithm
        self.rl_reward = config.training.rl_reward
        self.train_tasks = np.array(logs.spec.tasks.splits["train"])
        self.buffer = ReplayBuffer(logs, self.largest_buffer(config.training.steps))
        self.reward_free = algorithm.experience == "logs and reward-free interaction"
        from_logs = algorithm.transitions_per_task // 2 if self.reward_free else 0
        self.collected = drawing(self.buffer, algorithm.transitions_per_task - from_logs)
        self.logged = drawing(logs, from_logs) if self.reward_free else None
        self.drawn = 0

    def largest_buffer(self, batches: int) -> int:
        """Transitions after so many batches at most."""
        c = self.config
        largest = [count + 1 for count in (c.prior_episodes, c.posterior_episodes, c.extra_episodes) if count]
        collected = math.ceil(batches / c.collection_interval) * c.collection_tasks * sum(largest)
        return (len(self.train_tasks) * (c.initial_episodes + 1) + collected) * self.logs.spec.horizon

    def sample(self) -> MetaBatch:
        if self.drawn % self.config.collection_interval == 0:
            self.collect(self.drawn // self.config.collection_interval)
        self.drawn += 1
        positions = self.collected.draw_positions()
        batch = self.collected.batch(positions)
        return batch if self.logged is None else side_by_side(batch, self.logged.batch(positions))

    def collect(self, number: int) -> None:
        c, random = self.config, generator(self.seed, Stream.INTERACTION, number)
        if number == 0:
            self.run_phase(self.train_tasks, c.initial_episodes, random)
        tasks = random.choice(self.train_tasks, c.collection_tasks, replace=False)
        self.buffer.forget(tasks)
        self.run_phase(tasks, c.prior_episodes, random)
        self.run_phase(tasks, c.posterior_episodes, random, one_by_one=True, posterior=True)
        self.run_phase(tasks, c.extra_episodes, random, posterior=True, recent=False)

    def run_phase(
        self, tasks: np.ndarray, count: int, random: np.random.Generator, one_by_one: bool = False, **kind: bool
    ) -> None:
        """Keep the transitions of `count` whole episodes, of more where they end early, in each of `tasks`.

        Side by side or `one_by_one`; `kind` are arguments of `run_episodes`.
        """
        horizon = self.logs.spec.horizon
        missing = np.full(len(tasks), count * horizon)
        while (missing > 0).any():
            episodes = np.ceil(missing / horizon).astype(int).clip(0, 1 if one_by_one else None)
            rows = np.repeat(np.arange(len(tasks)), episodes)
            np.subtract.at(missing, rows, self.run_episodes(tasks[rows], random, **kind))

    @torch.no_grad()
    def run_episodes(
        self, tasks: np.ndarray, random: np.random.Generator, *, posterior: bool = False, recent: bool = True
    ) -> np.ndarray:
        """Keep one episode in each of `tasks` (n,), with z from the prior or the posterior given recent transitions.

        Returns how long they were.
        """
        algorithm, buffer, size = self.algorithm, self.buffer, self.config.context_size
        noise = torch.Generator(algorithm.device).manual_seed(int(random.integers(2**63)))
        context = buffer.context(buffer.draw_context_rows(tasks, size, random)) if posterior else None
        policy = algorithm.explore(len(tasks), context, noise)
        envs = self.logs.spec.make_vector(tasks)
        envs = RewardFree(envs) if self.reward_free else envs
        seeds = random.integers(2**32, size=len(tasks)).tolist()
        episodes = roll_out(envs, policy, seeds, algorithm.device, self.logs.standardized)
        envs.close()
        if self.reward_free:
            episodes = self.labelled(tasks, episodes, random, noise)
        buffer.add(tasks, episodes, recent)
        return episodes.running.sum(1)

    def labelled(
        self, tasks: np.ndarray, episodes: Rollout, random: np.random.Generator, noise: torch.Generator
    ) -> Rollout:
        """`episodes` in `tasks`, which have no rewards, with those that the method gives them."""
        context = self.logs.context(self.logs.draw_rows(tasks, self.config.context_size, random))
        device = self.algorithm.device
        observations = self.logs.standardized(torch.as_tensor(episodes.observations[:, :-1], device=device))
        actions = torch.as_tensor(episodes.actions, device=device)
        learners, own = self.algorithm.label(context, observations, actions, noise)
        labels = {self.logs.spec.reward: own} | {self.rl_reward: learners}
        labels = {kind: label.cpu().numpy() for kind, label in labels.items()}
        return replace(episodes, rewards=episodes.rewards | labels)

    def counts(self) -> dict[str, int]:
        """What has been collected so far."""
        return {"episodes": self.buffer.episodes, "transitions": self.buffer.stored}

    def state_dict(self) -> dict[str, Any]:
        return {"drawn": self.drawn, "buffer": self.buffer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.drawn = state["drawn"]
        self.buffer.load_state_dict(state["buffer"])


def side_by_side(collected: MetaBatch, logged: MetaBatch) -> MetaBatch:
    """The transitions of both, of the same tasks, and one context of each."""
    parts = {
        name: torch.cat([getattr(collected, name), getattr(logged, name)], 1)
        for name in ("observations", "actions", "rewards", "next_observations", "terminated")
    }
    return replace(collected, contexts=(collected.contexts[0], logged.contexts[0]), **parts)
