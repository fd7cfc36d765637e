"""The contract between a method and the suite: what a method is given, and the two things it must do.

A method is a class with a frozen `Config` that implements `update(batch)` and `adapt(context)`. The loop, evaluation,
saving and exact resume are the suite's. Shapes below: n tasks, b transitions per task, k context transitions.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

LAST_STAGE = "train"
ALLOWANCES = {  # what a method may see of a task that it is evaluated on
    "context": "a context of it",
    "dataset": "its whole dataset, from which it learns",
}


@dataclass(frozen=True)
class Problem:
    """What a method may know about a meta-environment before it sees data."""

    observation_dim: int
    action_dim: int
    task_dim: int  # number of task parameters, which only privileged methods receive
    n_train_tasks: int
    env: str | None = None  # name of the meta-environment
    observation_mean: Tensor | None = None  # (observation_dim,), what observations were standardised with, if they were
    observation_scale: Tensor | None = None
    evaluated_tasks: tuple[int, ...] = ()  # numbers within the meta-environment, where the allowance is their dataset

    def unstandardized(self, observations: Tensor) -> Tensor:
        """`observations` (..., observation_dim) as the environment gives them."""
        if self.observation_mean is None:
            return observations
        return observations * self.observation_scale + self.observation_mean


@dataclass(frozen=True)
class AlgorithmConfig:
    """The values that the training loop reads; a method's config adds its own."""

    meta_batch: int = 16  # tasks per update
    batch_size: int = 256  # transitions per task and update
    context_size: int = 256  # context transitions per task, the same in training and test

    def __post_init__(self) -> None:
        require(self, lambda value: value >= 1, "at least 1", "meta_batch", "batch_size", "context_size")


def require(config: AlgorithmConfig, holds: Callable[[Any], bool], expected: str, *names: str) -> None:
    """Raise ValueError, one line, naming the first field of `names` whose value is not as `expected`."""
    for name in names:
        if not holds(getattr(config, name)):
            raise ValueError(f"{name} must be {expected}, not {getattr(config, name)}")


@dataclass(frozen=True)
class InteractionConfig(AlgorithmConfig):
    """What the loop reads of methods that interact, see `Algorithm.experience`; the numbers are PEARL's.

    Episodes are whole ones, of as many steps as the horizon: where they end early, so many more are collected.
    """

    initial_episodes: int = 10  # in every training task before the first update, each with z from the prior
    collection_interval: int = 2000  # updates between two collections
    collection_tasks: int = 5  # training tasks that a collection visits
    prior_episodes: int = 2  # of a collection in each of its tasks, with z from the prior
    posterior_episodes: int = 0  # after those, with z from the posterior, inferred anew before each
    extra_episodes: int = 3  # after those, with z from the posterior, of which no contexts are drawn

    def __post_init__(self) -> None:
        super().__post_init__()
        counts = ("initial_episodes", "collection_interval", "collection_tasks", "prior_episodes")
        require(self, lambda value: value >= 1, "at least 1", *counts)
        require(self, lambda value: value >= 0, "at least 0", "posterior_episodes", "extra_episodes")


@dataclass(frozen=True)
class Context:
    """Transitions that a method adapts from: k for each of n tasks, in no particular order.

    observations and next_observations (n, k, observation_dim), actions (n, k, action_dim), rewards (n, k): always
    the environment's own reward. `task_parameters` (n, task_dim), standardised, and `task_ids` (n,), numbers within the
    meta-environment, are None unless the method declares itself privileged; the latter are also there where its
    allowance is the dataset.
    """

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    next_observations: Tensor
    task_parameters: Tensor | None = None
    task_ids: Tensor | None = None

    def __post_init__(self) -> None:
        if self.rewards.ndim != 2 or self.rewards.numel() == 0:
            raise ValueError(f"a context needs rewards of shape (n, k) with n, k > 0, not {tuple(self.rewards.shape)}")

    def check_finite(self) -> None:
        """Raise ValueError naming the first field that holds NaN or infinity."""
        for name in ("observations", "actions", "rewards", "next_observations"):
            if not torch.isfinite(getattr(self, name)).all():
                raise ValueError(f"the context's {name} hold NaN or infinite values")


@dataclass(frozen=True)
class MetaBatch:
    """Data of n distinct tasks for one update.

    `tasks` (n,) are their positions among those that the method learns from: the training tasks, or
    `Problem.evaluated_tasks` where it says so by `learns_from`.
    `rewards` are the learner's (the suite's `rl_reward` setting) and may differ from those in the contexts.
    `contexts` are two independent draws per task: of a method that interacts, from the latest collection in the task,
    and if it has logs beside, the second from those. `task_parameters` (n, task_dim), standardised, is None unless the
    method declares itself privileged.
    """

    tasks: Tensor  # (n,)
    observations: Tensor  # (n, b, observation_dim)
    actions: Tensor  # (n, b, action_dim)
    rewards: Tensor  # (n, b)
    next_observations: Tensor  # (n, b, observation_dim)
    terminated: Tensor  # (n, b), 1.0 where the episode really ended; a time limit is 0.0
    contexts: tuple[Context, Context]
    task_parameters: Tensor | None = None


class Policy(ABC):
    """An adapted policy of n tasks at once."""

    @abstractmethod
    def act(self, observations: Tensor) -> Tensor:
        """Evaluation actions in [-1, 1], (n, action_dim), for observations (n, observation_dim), row i for task i."""


class Algorithm(ABC):
    """Base of every method. Subclasses build networks and optimisers in `__init__` and keep them as attributes.

    Every attribute with a `state_dict`, every tensor, every number and `self.generator` are saved and restored by
    `state_dict` and `load_state_dict`; a method writes no saving code. Noise must come from `self.generator`.

    `experience` says where the transitions of the last stage's batches come from; all other stages learn from logs.
    With "interaction" the method collects them in the training tasks, by `explore`, and its `Config` is an
    `InteractionConfig`. With "logs and reward-free interaction" half of each task's transitions are logged ones, and
    those that it collects come without rewards: what takes their place is its own `label`.
    """

    Config: ClassVar[type[AlgorithmConfig]] = AlgorithmConfig
    revision: ClassVar[int] = 1  # bumped by whoever changes results
    experience: ClassVar[Literal["logs", "interaction", "logs and reward-free interaction"]] = "logs"
    privileged: ClassVar[bool] = False  # receives the true task parameters
    allowance: ClassVar[Literal["context", "dataset"]] = "context"  # see ALLOWANCES
    order_invariant: ClassVar[bool] = True  # `adapt` does not depend on the order of a context's transitions
    deterministic: ClassVar[bool] = True  # actions of a task depend on its context and observation alone
    training_values: ClassVar[dict[str, Any]] = {}  # of the loop's fields, stronger than the budget's
    environment_values: ClassVar[dict[str, dict[str, Any]]] = {}  # meta-environment -> field -> value
    presets: ClassVar[dict[str, dict[str, Any]]] = {}  # preset -> field -> value; "environments" -> as above

    def __init__(self, problem: Problem, config: AlgorithmConfig, seed: int, device: str = "cpu"):
        self.problem, self.config, self.device = problem, config, torch.device(device)
        self.stage = LAST_STAGE  # set by the loop
        self.generator = torch.Generator(self.device).manual_seed(seed)

    @property
    def stages(self) -> dict[str, int]:
        """The updates of each stage before the last by name, in order; in the last are the run's own `steps`."""
        return {}

    @property
    def learns_from(self) -> Literal["train", "evaluated"]:
        """Whose data `update` wants in this stage; those of the evaluated tasks take the allowance "dataset"."""
        return "train"

    @property
    def interacts(self) -> bool:
        """Whether the method collects transitions in this stage."""
        return self.experience != "logs" and self.stage == LAST_STAGE

    @property
    def tasks_per_batch(self) -> int:
        """How many tasks `update` wants in this stage."""
        return self.config.meta_batch

    @property
    def transitions_per_task(self) -> int:
        """How many transitions per task `update` wants; more than `batch_size` where it needs fresh ones inside."""
        return self.config.batch_size

    @property
    def context_per_task(self) -> int:
        """How many transitions each of the two contexts of a task has that `update` wants."""
        return self.config.context_size

    @abstractmethod
    def update(self, batch: MetaBatch) -> dict[str, Tensor]:
        """One learning step; returns scalar metrics, detached. Keys that end in `loss` are watched for divergence."""

    @abstractmethod
    def adapt(self, context: Context) -> Policy:
        """The policy for the tasks that the context comes from. Leaves the learner as it was."""

    @property
    def bounded(self) -> bool:
        """Whether embeddings lie in (-1, 1)^latent."""
        return False

    def prior(self, n: int, generator: torch.Generator) -> Policy:
        """Policies for n tasks of which nothing is known yet, for the first episode where context is self-collected.

        Raises NotImplementedError for methods that cannot act without a context.
        """
        raise NotImplementedError(f"{type(self).__name__} cannot act without a context")

    def explore(self, n: int, context: Context | None, generator: torch.Generator) -> Policy:
        """Policies that collect in n training tasks, stochastic ones: of `context`, if there is one, else of the prior.

        All noise, of actions too, comes from `generator`. Asked only of methods that interact.
        """
        raise NotImplementedError(f"{type(self).__name__} does not interact")

    def label(
        self, logged: Context, observations: Tensor, actions: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Rewards (n, b), the learner's and those of contexts, of transitions (n, b, ...) that came without.

        `logged` are contexts from the logs of their tasks. Asked only of methods whose interaction is reward-free.
        """
        raise NotImplementedError(f"{type(self).__name__} labels no transitions")

    def embed(self, context: Context) -> Tensor | None:
        """The task embedding (n, latent) behind `adapt`, for pictures; None for methods without one."""
        return None

    def exported(self) -> dict[str, nn.Module | Tensor]:
        """The modules and tensors that `adapt`, `prior` and acting need, kept after training; by default all."""
        return {name: value for name, value in vars(self).items() if isinstance(value, nn.Module | Tensor)}

    @property
    def learned_parameters(self) -> int:
        """How many numbers the optimisers change; copies that follow, such as target networks, are not counted."""
        optimizers = [value for value in vars(self).values() if isinstance(value, torch.optim.Optimizer)]
        groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        return sum({id(p): p.numel() for group in groups for p in group["params"]}.values())

    def scale_learning_rates(self, factor: float) -> None:
        """Set the learning rate of every optimiser to `factor` times what it was built with."""
        for value in vars(self).values():
            if isinstance(value, torch.optim.Optimizer):
                for group in value.param_groups:
                    group["lr"] = factor * group.setdefault("initial_lr", group["lr"])

    def state_dict(self) -> dict[str, Any]:
        """The learner's state. Raises TypeError for networks or tensors in a plain list or dict."""
        state: dict[str, Any] = {}
        for name, value in vars(self).items():
            if isinstance(value, torch.Generator):
                state[name] = value.get_state()
            elif isinstance(value, Tensor):
                state[name] = value.detach().clone()
            elif isinstance(value, int | float):
                state[name] = value
            elif hasattr(value, "state_dict"):
                state[name] = value.state_dict()
            elif isinstance(value, list | tuple | dict):
                items = value.values() if isinstance(value, dict) else value
                if any(isinstance(item, Tensor) or hasattr(item, "state_dict") for item in items):
                    raise TypeError(f"{type(self).__name__}.{name}: keep each in an attribute or a torch container")
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` gave. Raises ValueError if it is of a method with other parts."""
        if differing := state.keys() ^ self.state_dict().keys():
            raise ValueError(f"{type(self).__name__} and the state differ in {', '.join(sorted(differing))}")
        for name, saved in state.items():
            value = getattr(self, name)
            if isinstance(value, torch.Generator):
                value.set_state(saved)
            elif isinstance(value, Tensor):
                value.data.copy_(saved)
            elif isinstance(value, int | float):
                setattr(self, name, saved)
            else:
                value.load_state_dict(copy.deepcopy(saved))  # optimisers keep the tensors they are given
