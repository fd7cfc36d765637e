"""What the methods share that learn in every evaluated task from the dataset of that task alone.

Nothing passes from task to task: each has networks of its own, an ensemble with one member (of critics two) per task,
and every loss is a sum over tasks. So an update is one gradient step in every task, as if it were learned by itself.
The training tasks are not used, and a context only says which task it is of.
"""

import copy
from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from omrlbench.algorithms.algorithm import Algorithm, AlgorithmConfig, Context, MetaBatch, Policy, require
from omrlbench.algorithms.networks import adam, ensemble_mlp, polyak_update

EXPERT_DATA = ("sparse_point_robot", "point_robot", "point_robot_wind", "cheetah_vel")  # by default
MIXED_DATA = ("cheetah_fwd_back", "ant_fwd_back", "walker_params")


@dataclass(frozen=True)
class SingleTaskConfig(AlgorithmConfig):
    batch_size: int = 256  # transitions per task and update
    task_width: int = 256  # two hidden layers of every network of a task
    task_learning_rate: float = 3e-4  # of all networks of a task, but for a discriminator
    discount: float = 0.99
    target_rate: float = 0.005

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, lambda value: value >= 1, "at least 1", "task_width")
        require(self, lambda value: value > 0, "above 0", "task_learning_rate")
        require(self, lambda value: 0 <= value <= 1, "between 0 and 1", "discount", "target_rate")


class SingleTask(Algorithm):
    """A subclass builds networks in `build`, learns in `learn` and acts by `act`. Shapes: n tasks, b transitions."""

    Config = SingleTaskConfig
    allowance = "dataset"

    def __init__(self, problem, config, seed, device="cpu"):
        super().__init__(problem, config, seed, device)
        self.task_ids = torch.tensor(problem.evaluated_tasks)
        n, inputs, hidden = len(self.task_ids), problem.observation_dim + problem.action_dim, self.hidden
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.critics = ensemble_mlp(2 * n, inputs, hidden, 1).to(self.device)
            self.build(n, problem.observation_dim, problem.action_dim)
        self.critic_target = copy.deepcopy(self.critics).requires_grad_(False)
        self.critic_optimizer = adam(self.critics, config.task_learning_rate)

    @property
    def hidden(self) -> tuple[int, int]:
        return (self.config.task_width,) * 2

    def noise(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator, device=self.device)

    def follow(self, target: nn.Module, online: nn.Module) -> None:
        polyak_update(target, online, self.config.target_rate)

    # ------------------------------------------------------------------ what a method says

    @abstractmethod
    def build(self, n: int, s: int, a: int) -> None:
        """Networks and optimisers beside the critics, for n tasks, s observation and a action dimensions."""

    @abstractmethod
    def learn(self, s: Tensor, a: Tensor, r: Tensor, s_next: Tensor, terminated: Tensor) -> dict[str, Tensor]:
        """One gradient step in every task; metrics. Rows of (n, b, ...) are in the order of the networks."""

    @abstractmethod
    def act(self, observations: Tensor) -> Tensor:
        """Evaluation actions (n, rows, action_dim) of every task's policy at (n, rows, observation_dim)."""

    @abstractmethod
    def exported(self) -> dict[str, nn.Module | Tensor]:
        """What `act` needs."""

    # ------------------------------------------------------------------ contract

    @property
    def learns_from(self) -> Literal["evaluated"]:
        return "evaluated"

    @property
    def tasks_per_batch(self) -> int:
        return len(self.task_ids)

    @property
    def context_per_task(self) -> int:
        return 1  # is not used

    def update(self, batch: MetaBatch) -> dict[str, Tensor]:
        order = batch.tasks.argsort().to(self.device)
        columns = (batch.observations, batch.actions, batch.rewards, batch.next_observations, batch.terminated)
        return {name: value.detach() for name, value in self.learn(*(column[order] for column in columns)).items()}

    def adapt(self, context: Context) -> Policy:
        """The policies of the context's tasks. Raises ValueError for a task whose dataset was not learned from."""
        context.check_finite()
        if not torch.isin(context.task_ids, self.task_ids).all():
            raise ValueError(f"task_ids must be of tasks whose datasets were learned from: {self.task_ids.tolist()}")
        return TasksPolicy(self, torch.searchsorted(self.task_ids, context.task_ids).to(self.device))

    def prior(self, n: int, generator: torch.Generator) -> Policy:
        raise NotImplementedError(f"{type(self).__name__} learned from the task's dataset and collects no context")


class TasksPolicy(Policy):
    """Row i of the observations goes to the policy of the task at `places[i]` of the learner."""

    def __init__(self, learner: SingleTask, places: Tensor):
        self.learner, self.places = learner, places
        counts = places.bincount(minlength=learner.tasks_per_batch)
        order = places.argsort(stable=True)
        self.rows = torch.empty_like(places)  # of each observation among those of its task
        self.rows[order] = torch.arange(len(places), device=places.device) - (counts.cumsum(0) - counts)[places[order]]
        self.shape = len(counts), int(counts.max())

    @torch.no_grad()
    def act(self, observations: Tensor) -> Tensor:
        stacked = observations.new_zeros(*self.shape, observations.shape[-1])
        stacked[self.places, self.rows] = observations
        return self.learner.act(stacked)[self.places, self.rows]
