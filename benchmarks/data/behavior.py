"""Behaviour policies: the stochastic actors that collect the offline data, and rolling them out.

`per_task` is one actor per task, all side by side as one batched network, the way the FOCAL paper collects its data.
`conditioned` is one actor that also observes the standardised task parameters. `sac.py` trains both.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from omrlbench.algorithms.networks import ensemble_mlp, squash
from omrlbench.envs.registry import MetaEnvSpec
from omrlbench.envs.tasks import TaskSet

KINDS = ("per_task", "conditioned")
LOG_STD_RANGE = (-5.0, 2.0)


class BehaviorPolicy:
    """A stochastic actor of every task: maps observations (n_tasks, m, obs_dim) to actions (n_tasks, m, action_dim)."""

    def __init__(self, kind: str, tasks: TaskSet, obs_dim: int, action_dim: int, width: int):
        if kind not in KINDS:
            raise ValueError(f"unknown behaviour kind {kind!r}: choose one of {', '.join(KINDS)}")
        self.kind, self.n_tasks = kind, len(tasks)
        self.members = self.n_tasks if kind == "per_task" else 1
        self.task_features = standardised_parameters(tasks) if kind == "conditioned" else None
        self.in_features = obs_dim + (self.task_features.shape[1] if kind == "conditioned" else 0)
        self.actor = ensemble_mlp(self.members, self.in_features, (width, width), 2 * action_dim)

    def of(self, tasks: Sequence[int]) -> "BehaviorPolicy":
        """The policy whose task k is task `tasks[k]` of this one."""
        chosen, rows = copy.copy(self), list(tasks)
        chosen.n_tasks = len(rows)
        if self.task_features is not None:
            chosen.task_features = self.task_features[rows]
        else:
            chosen.members, chosen.actor = len(rows), copy.deepcopy(self.actor)
            for parameter in chosen.actor.parameters():
                parameter.data = parameter.data[rows]
        return chosen

    def inputs(self, observations: Tensor, tasks: Tensor | slice = slice(None)) -> Tensor:
        """(n, m, obs_dim) of `tasks` (n,), by default all, -> (members, n * m / members, in_features)."""
        if self.task_features is None:
            return observations
        n, m, _ = observations.shape
        features = self.task_features[tasks][:, None].expand(n, m, -1)
        return torch.cat([observations, features], -1).reshape(1, n * m, -1)

    def sample(self, inputs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = self.actor(inputs).chunk(2, -1)
        low, high = LOG_STD_RANGE
        log_std = low + (high - low) * torch.sigmoid(log_std)
        return squash(mean, log_std, noise.reshape(mean.shape))

    @torch.no_grad()
    def mean_act(self, observations: np.ndarray) -> np.ndarray:
        """The mean actions (n_tasks, m, action_dim) for observations (n_tasks, m, observation_dim), float32."""
        mean, _ = self.actor(self.inputs(torch.as_tensor(observations))).chunk(2, -1)
        return mean.tanh().reshape(*observations.shape[:2], -1).numpy()

    @torch.no_grad()
    def act(self, observations: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Stochastic actions; `noise` is standard normal of shape (n_tasks, m, action_dim). float32 throughout."""
        actions, _ = self.sample(self.inputs(torch.as_tensor(observations)), torch.as_tensor(noise))
        return actions.reshape(noise.shape).numpy()


def standardised_parameters(tasks: TaskSet) -> Tensor:
    """Task parameters with mean 0 and standard deviation 1 over the training tasks, float32 (n_tasks, n_parameters)."""
    train = tasks.parameters[list(tasks.splits["train"])]
    return torch.as_tensor((tasks.parameters - train.mean(0)) / train.std(0), dtype=torch.float32)


@contextmanager
def one_thread() -> Iterator[None]:
    """Within, torch computes on one thread, so that the bytes do not depend on how many it may use."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@one_thread()
@torch.no_grad()
def rollout(
    spec: MetaEnvSpec,
    policy: BehaviorPolicy,
    episodes: int,
    generator: np.random.Generator,
    on_step: Callable[[int, int], None] = lambda done, total: None,
    tasks: Sequence[int] | None = None,
) -> dict[str, np.ndarray]:
    """Run each of `tasks` for `episodes` episodes of stochastic actions, telling `on_step` (steps done, horizon).

    `tasks` (n_tasks,) are those that `policy` acts in, row by row; by default all.

    Returns arrays with leading axes (n_tasks, episodes), zero after an episode's end: float32 `observations`
    (horizon + 1, obs_dim), `actions` (horizon, action_dim), `<kind>_reward` (horizon,) for every kind in
    `spec.rewards`, and the booleans `terminated` and `truncated` (horizon,).
    """
    tasks = np.arange(len(spec.tasks)) if tasks is None else np.asarray(tasks)
    n_tasks, horizon = len(tasks), spec.horizon
    envs = spec.make_vector(np.repeat(tasks, episodes))
    members, obs_dim, action_dim = envs.num_envs, *envs.single_observation_space.shape, *envs.single_action_space.shape
    reward_names = [f"{kind}_reward" for kind in spec.rewards]
    arrays = {
        "observations": np.zeros((members, horizon + 1, obs_dim), np.float32),
        "actions": np.zeros((members, horizon, action_dim), np.float32),
        **{name: np.zeros((members, horizon), np.float32) for name in reward_names},
        "terminated": np.zeros((members, horizon), bool),
        "truncated": np.zeros((members, horizon), bool),
    }
    (seeds,) = generator.spawn(1)
    observations, _ = envs.reset(seed=seeds.integers(2**31, size=members))
    arrays["observations"][:, 0] = observations
    running = np.ones(members, bool)
    for step in range(horizon):
        noise = generator.standard_normal((n_tasks, episodes, action_dim), dtype=np.float32)
        actions = policy.act(observations.reshape(n_tasks, episodes, -1), noise).reshape(members, -1)
        observations, _, terminated, truncated, infos = envs.step(actions)
        values = {"actions": actions, **{name: infos[name] for name in reward_names}}
        for name, value in (values | {"terminated": terminated, "truncated": truncated}).items():
            arrays[name][running, step] = value[running]
        arrays["observations"][running, step + 1] = observations[running]
        running &= ~(terminated | truncated)
        on_step(step + 1, horizon)
    envs.close()
    return {name: values.reshape(n_tasks, episodes, *values.shape[1:]) for name, values in arrays.items()}
