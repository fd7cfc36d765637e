"""Behaviour policies: SAC agents that collect the offline data, trained on dense reward (Haarnoja et al. 2018).

`per_task` trains one agent per task, all side by side as one batched network, the way the FOCAL paper collects its
data. `conditioned` trains one agent that also observes the standardised task parameters. Differences from the paper's
behaviour policies (FOCAL facts 2.1: two layers of 1024, batch 1024, 5000 steps of which 2000 are random) are the
sizes in `BehaviorConfig`.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from omrlbench.algorithms.networks import ensemble_mlp, polyak_update, squash
from omrlbench.envs.registry import MetaEnvSpec
from omrlbench.envs.tasks import TaskSet

KINDS = ("per_task", "conditioned")
LOG_STD_RANGE = (-5.0, 2.0)


@dataclass(frozen=True)
class BehaviorConfig:
    steps: int = 5000  # environment steps of every task, and gradient steps
    random_steps: int = 200  # of these, how many act uniformly at random, without learning
    batch_size: int = 64  # transitions per agent and gradient step (per_task)
    conditioned_batch_size: int = 512  # the same for the one conditioned agent, over all tasks
    actor_width: int = 32
    critic_width: int = 64
    learning_rate: float = 1e-3
    target_rate: float = 0.005
    initial_temperature: float = 0.1
    target_entropy: float = -1.0  # nats per action dimension
    seed: int = 0


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

    def inputs(self, observations: Tensor) -> Tensor:
        """(n_tasks, m, obs_dim) -> (members, n_tasks * m / members, in_features)."""
        if self.task_features is None:
            return observations
        n, m, _ = observations.shape
        features = self.task_features[:, None].expand(n, m, -1)
        return torch.cat([observations, features], -1).reshape(1, n * m, -1)

    def sample(self, inputs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = self.actor(inputs).chunk(2, -1)
        low, high = LOG_STD_RANGE
        log_std = low + (high - low) * torch.sigmoid(log_std)
        return squash(mean, log_std, noise.reshape(mean.shape))

    @torch.no_grad()
    def act(self, observations: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Stochastic actions; `noise` is standard normal of shape (n_tasks, m, action_dim). float32 throughout."""
        actions, _ = self.sample(self.inputs(torch.as_tensor(observations)), torch.as_tensor(noise))
        return actions.reshape(noise.shape).numpy()


def standardised_parameters(tasks: TaskSet) -> Tensor:
    """Task parameters with mean 0 and standard deviation 1 over the training tasks, float32 (n_tasks, n_parameters)."""
    train = tasks.parameters[list(tasks.splits["train"])]
    return torch.as_tensor((tasks.parameters - train.mean(0)) / train.std(0), dtype=torch.float32)


class BehaviorSAC:
    """Soft actor-critic of all members at once: twin critics and automatic temperature."""

    def __init__(self, policy: BehaviorPolicy, action_dim: int, discount: float, config: BehaviorConfig):
        self.policy, self.discount, self.config = policy, discount, config
        width, members = config.critic_width, policy.members
        self.critic = ensemble_mlp(2 * members, policy.in_features + action_dim, (width, width), 1)
        self.target = copy.deepcopy(self.critic).requires_grad_(False)
        self.log_temperature = torch.full((members, 1), config.initial_temperature).log().requires_grad_()
        self.target_entropy = config.target_entropy * action_dim
        self.optimizers = [
            torch.optim.Adam(params, lr=config.learning_rate, fused=True)
            for params in (self.critic.parameters(), policy.actor.parameters(), [self.log_temperature])
        ]

    def q_values(self, critic, inputs: Tensor, actions: Tensor) -> Tensor:
        """(members, batch, .) -> (2, members, batch)."""
        joined = torch.cat([inputs, actions], -1).repeat(2, 1, 1)
        return critic(joined).reshape(2, *inputs.shape[:2])

    def update(self, inputs: Tensor, actions: Tensor, rewards: Tensor, next_inputs: Tensor, terminated: Tensor) -> None:
        critic_optimizer, actor_optimizer, temperature_optimizer = self.optimizers
        temperature = self.log_temperature.detach().exp()
        noise = torch.randn(2, *actions.shape)
        with torch.no_grad():
            next_actions, log_pi = self.policy.sample(next_inputs, noise[0])
            next_value = self.q_values(self.target, next_inputs, next_actions).amin(0) - temperature * log_pi
            backup = rewards + self.discount * (1 - terminated) * next_value
        # every member has a network of its own, so losses are summed over members and averaged over the batch
        critic_loss = (self.q_values(self.critic, inputs, actions) - backup).square().mean(-1).sum()
        critic_optimizer.zero_grad()
        critic_loss.backward()
        critic_optimizer.step()

        self.critic.requires_grad_(False)
        new_actions, log_pi = self.policy.sample(inputs, noise[1])
        value = self.q_values(self.critic, inputs, new_actions).amin(0)
        actor_loss = (temperature * log_pi - value).mean(-1).sum()
        actor_optimizer.zero_grad()
        actor_loss.backward()
        actor_optimizer.step()
        self.critic.requires_grad_(True)

        temperature_loss = -(self.log_temperature * (log_pi.detach() + self.target_entropy)).mean(-1).sum()
        temperature_optimizer.zero_grad()
        temperature_loss.backward()
        temperature_optimizer.step()
        polyak_update(self.target, self.critic, self.config.target_rate)


def train_behavior(
    spec: MetaEnvSpec,
    kind: str,
    config: BehaviorConfig,
    checkpoint_every: int,
    on_checkpoint: Callable[[int, BehaviorPolicy], None],
) -> None:
    """Train the behaviour policies of all tasks of `spec`; `on_checkpoint(step, policy)` sees step 0 and the last."""
    torch.manual_seed(config.seed)
    random = np.random.default_rng(config.seed)
    envs = spec.make_vector(range(len(spec.tasks)))
    n_tasks, obs_dim = envs.num_envs, envs.single_observation_space.shape[0]
    action_dim = envs.single_action_space.shape[0]
    policy = BehaviorPolicy(kind, spec.tasks, obs_dim, action_dim, config.actor_width)
    agent = BehaviorSAC(policy, action_dim, spec.learner_defaults["discount"], config)
    batch = config.batch_size if kind == "per_task" else -(-config.conditioned_batch_size // n_tasks)

    replay = {
        "observations": torch.zeros(n_tasks, config.steps, obs_dim),
        "actions": torch.zeros(n_tasks, config.steps, action_dim),
        "rewards": torch.zeros(n_tasks, config.steps),
        "next_observations": torch.zeros(n_tasks, config.steps, obs_dim),
        "terminated": torch.zeros(n_tasks, config.steps),
    }
    rows = torch.arange(n_tasks)[:, None]
    on_checkpoint(0, policy)
    observations, _ = envs.reset(seed=config.seed)
    for step in range(config.steps):
        if step < config.random_steps:
            actions = random.uniform(-1, 1, (n_tasks, action_dim)).astype(np.float32)
        else:
            noise = random.standard_normal((n_tasks, 1, action_dim), dtype=np.float32)
            actions = policy.act(observations[:, None], noise)[:, 0]
        next_observations, _, terminated, truncated, infos = envs.step(actions)
        values = (observations, actions, infos["dense_reward"], next_observations, terminated)
        for key, value in zip(replay, values, strict=True):
            replay[key][:, step] = torch.as_tensor(value, dtype=torch.float32)
        observations = next_observations
        if truncated.all():
            observations, _ = envs.reset()
        if step < config.random_steps:
            continue
        index = torch.from_numpy(random.integers(0, step + 1, (n_tasks, batch)))
        obs, act, rew, next_obs, term = (values[rows, index] for values in replay.values())
        shape = (policy.members, -1)
        agent.update(
            policy.inputs(obs),
            act.reshape(*shape, action_dim),
            rew.reshape(shape),
            policy.inputs(next_obs),
            term.reshape(shape),
        )
        if (step + 1) % checkpoint_every == 0 or step + 1 == config.steps:
            on_checkpoint(step + 1, policy)


@torch.no_grad()
def rollout(spec: MetaEnvSpec, policy: BehaviorPolicy, episodes: int, generator: np.random.Generator) -> dict:
    """Run every task for `episodes` episodes of stochastic actions.

    Returns float32 arrays with leading axes (n_tasks, episodes): `observations` (horizon + 1, obs_dim), `actions`
    (horizon, action_dim), and of shape (horizon,) `dense_reward`, `sparse_reward` and the booleans `terminated` and
    `truncated`. Episodes end at the horizon: no meta-environment here terminates.
    """
    n_tasks = len(spec.tasks)
    envs = spec.make_vector(np.repeat(np.arange(n_tasks), episodes))
    observations, _ = envs.reset()
    steps = []
    seen = [observations]
    for _ in range(spec.horizon):
        noise = generator.standard_normal((n_tasks, episodes, envs.single_action_space.shape[0]), dtype=np.float32)
        actions = policy.act(observations.reshape(n_tasks, episodes, -1), noise)
        observations, _, terminated, truncated, infos = envs.step(actions.reshape(envs.num_envs, -1))
        if terminated.any():
            raise NotImplementedError("early termination needs ragged episodes")
        seen.append(observations)
        steps.append((actions.reshape(envs.num_envs, -1), infos["dense_reward"], infos["sparse_reward"], truncated))
    actions, dense, sparse, truncated = (np.stack(column, 1) for column in zip(*steps, strict=True))
    arrays = {
        "observations": np.stack(seen, 1),
        "actions": actions,
        "dense_reward": dense.astype(np.float32),
        "sparse_reward": sparse.astype(np.float32),
        "terminated": np.zeros_like(truncated),
        "truncated": truncated,
    }
    return {key: value.reshape(n_tasks, episodes, *value.shape[1:]) for key, value in arrays.items()}
