"""Training behaviour policies: SAC on dense reward (Haarnoja et al. 2018), resumable at every checkpoint.

Differences from the FOCAL paper's behaviour policies (facts 2.1: two layers of 1024, batch 1024, one gradient step per
environment step) are the sizes in `BehaviorConfig`.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from omrlbench.algorithms.networks import ensemble_mlp, polyak_update
from omrlbench.data.behavior import BehaviorPolicy
from omrlbench.envs.registry import MetaEnvSpec


@dataclass(frozen=True)
class BehaviorConfig:
    steps: int = 5000  # of every member of the batched environment
    random_steps: int = 200  # of these, how many act uniformly at random, without learning
    members_per_task: int = 1
    updates_per_step: int = 1
    checkpoint_every: int = 25  # steps between candidates
    scoring_episodes: int = 5  # stochastic episodes per task that score a candidate
    steps_by_task: bool = False  # whether levels take each task's agent at steps of its own (per_task)
    batch_size: int = 64  # transitions per agent and gradient step (per_task)
    conditioned_batch_size: int = 512  # the same for the one conditioned agent, over all tasks
    actor_width: int = 32
    critic_width: int = 64
    learning_rate: float = 1e-3
    decay_steps: int = 0  # the last ones, over which the learning rate falls linearly to zero
    target_rate: float = 0.005
    initial_temperature: float = 0.1
    target_entropy: float = -1.0  # nats per action dimension
    discount: float | None = None  # None: the one that methods use in this environment
    seed: int = 0


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

    def state_dict(self) -> dict[str, Any]:
        return {
            "actor": self.policy.actor.state_dict(),
            "critic": self.critic.state_dict(),
            "target": self.target.state_dict(),
            "log_temperature": self.log_temperature.detach(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.policy.actor.load_state_dict(state["actor"])
        self.critic.load_state_dict(state["critic"])
        self.target.load_state_dict(state["target"])
        self.log_temperature.data.copy_(state["log_temperature"])
        for optimizer, kept in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)


class BehaviorTraining:
    """The training of all behaviour policies of `spec`, from where it stands to the end.

    At every checkpoint all episodes start anew, from seeds that depend on the step alone, so that a training that was
    saved there and loaded goes on exactly as one that never stopped.
    """

    def __init__(self, spec: MetaEnvSpec, kind: str, config: BehaviorConfig):
        torch.manual_seed(config.seed)
        self.config, self.step = config, 0
        self.random = np.random.default_rng(config.seed)
        self.n_tasks = len(spec.tasks)
        self.envs = spec.make_vector(np.repeat(np.arange(self.n_tasks), config.members_per_task))
        obs_dim, (action_dim,) = self.envs.single_observation_space.shape[0], self.envs.single_action_space.shape
        self.policy = BehaviorPolicy(kind, spec.tasks, obs_dim, action_dim, config.actor_width)
        discount = spec.learner_defaults["discount"] if config.discount is None else config.discount
        self.agent = BehaviorSAC(self.policy, action_dim, discount, config)
        widths = {"observations": obs_dim, "actions": action_dim, "rewards": 0, "next_observations": obs_dim}
        shape = (self.n_tasks, config.steps * config.members_per_task)
        self.replay = {
            name: torch.zeros(*shape, width) if width else torch.zeros(shape)
            for name, width in (widths | {"terminated": 0}).items()
        }

    @property
    def stored(self) -> int:
        """Transitions per task."""
        return self.step * self.config.members_per_task

    def run(self, on_step: Callable[[int], None], on_checkpoint: Callable[["BehaviorTraining"], None]) -> None:
        """Train to the end; `on_step(step)` is told every step, `on_checkpoint(self)` sees step 0 and the last."""
        while True:
            if self.step % self.config.checkpoint_every == 0 or self.step == self.config.steps:
                on_checkpoint(self)
                observations = self._restart()
            if self.step == self.config.steps:
                return
            observations = self._collect(observations)
            if self.step > self.config.random_steps:
                self._set_learning_rate()
                for _ in range(self.config.updates_per_step):
                    self._update()
            on_step(self.step)

    def _restart(self) -> np.ndarray:
        seeds = np.random.SeedSequence([self.config.seed, self.step]).generate_state(self.envs.num_envs)
        return self.envs.reset(seed=seeds)[0]

    def _collect(self, observations: np.ndarray) -> np.ndarray:
        """Take one step in every member, keep the transitions, and return the observations to go on from."""
        members, (action_dim,) = self.envs.num_envs, self.envs.single_action_space.shape
        if self.step < self.config.random_steps:
            actions = self.random.uniform(-1, 1, (members, action_dim)).astype(np.float32)
        else:
            noise = self.random.standard_normal((self.n_tasks, members // self.n_tasks, action_dim), dtype=np.float32)
            actions = self.policy.act(observations.reshape(*noise.shape[:2], -1), noise).reshape(members, -1)
        next_observations, _, terminated, truncated, infos = self.envs.step(actions)
        values = (observations, actions, infos["dense_reward"], next_observations, terminated)
        start = self.stored
        self.step += 1
        for stored, value in zip(self.replay.values(), values, strict=True):
            stored[:, start : self.stored] = torch.as_tensor(value).reshape(self.n_tasks, -1, *stored.shape[2:])
        ended = terminated | truncated
        return self.envs.reset(options={"reset_mask": ended})[0] if ended.any() else next_observations

    def _set_learning_rate(self) -> None:
        left, decay = self.config.steps - self.step, self.config.decay_steps
        rate = self.config.learning_rate * (min(1.0, left / decay) if decay else 1.0)
        for group in (group for optimizer in self.agent.optimizers for group in optimizer.param_groups):
            group["lr"] = rate

    def _update(self) -> None:
        """Every agent of its own task draws a batch there, the conditioned agent each transition in a random task."""
        if self.policy.kind == "per_task":
            tasks, count = np.arange(self.n_tasks), self.config.batch_size
        else:
            tasks, count = self.random.integers(0, self.n_tasks, self.config.conditioned_batch_size), 1
        tasks = torch.from_numpy(tasks)
        index = torch.from_numpy(self.random.integers(0, self.stored, (len(tasks), count)))
        observations, actions, rewards, next_observations, terminated = (
            values[tasks[:, None], index] for values in self.replay.values()
        )
        shape = (self.policy.members, -1)
        self.agent.update(
            self.policy.inputs(observations, tasks),
            actions.reshape(*shape, actions.shape[-1]),
            rewards.reshape(shape),
            self.policy.inputs(next_observations, tasks),
            terminated.reshape(shape),
        )

    def state_dict(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "agent": self.agent.state_dict(),
            "replay": {name: values[:, : self.stored].clone() for name, values in self.replay.items()},
            "numpy": self.random.bit_generator.state,
            "torch": torch.get_rng_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step = state["step"]
        self.agent.load_state_dict(state["agent"])
        for name, values in state["replay"].items():
            self.replay[name][:, : self.stored] = values
        self.random.bit_generator.state = state["numpy"]
        torch.set_rng_state(state["torch"])
