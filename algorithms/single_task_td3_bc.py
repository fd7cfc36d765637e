"""TD3+BC (Fujimoto and Gu, NeurIPS 2021) on the dataset of each evaluated task.

TD3 (Fujimoto, van Hoof and Meger, ICML 2018) whose actor also imitates: it maximises lambda Q(s, pi(s)) minus the
squared distance of pi(s) to the logged action, lambda = alpha / mean |Q|. Without lambda (`alpha` 0, the reference row
`single_task_bc`) it is behaviour cloning.

Differences from the paper: observations are standardised by the suite, over the training tasks, in place of each
dataset by itself; lambda is of each task, as everything is.
"""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from omrlbench.algorithms.algorithm import require
from omrlbench.algorithms.bcq import q_loss, twin_q
from omrlbench.algorithms.networks import adam, ensemble_mlp, frozen, step
from omrlbench.algorithms.single_task import EXPERT_DATA, MIXED_DATA, SingleTask, SingleTaskConfig


@dataclass(frozen=True)
class SingleTaskTD3BCConfig(SingleTaskConfig):
    alpha: float = 2.5  # weight of the value beside the imitation
    target_noise: float = 0.2  # standard deviation that smooths the target policy
    target_noise_limit: float = 0.5
    actor_interval: int = 2  # updates of the critics per update of the actor and the targets

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, lambda value: value >= 0, "at least 0", "alpha", "target_noise", "target_noise_limit")
        require(self, lambda value: value >= 1, "at least 1", "actor_interval")


class SingleTaskTD3BC(SingleTask):
    Config = SingleTaskTD3BCConfig
    environment_values = dict.fromkeys(EXPERT_DATA, {"alpha": 0.02}) | dict.fromkeys(MIXED_DATA, {"alpha": 0.5})

    def build(self, n, s, a):
        self.actor = ensemble_mlp(n, s, self.hidden, a).to(self.device)
        self.actor_target = copy.deepcopy(self.actor).requires_grad_(False)
        self.actor_optimizer = adam(self.actor, self.config.task_learning_rate)
        self.updates = 0

    # ------------------------------------------------------------------ losses, summed over tasks

    def critic_loss(self, s: Tensor, a: Tensor, r: Tensor, s_next: Tensor, terminated: Tensor) -> Tensor:
        """Both critics against r + gamma min Q_target(s', pi_target(s') + clipped noise)."""
        c = self.config
        with torch.no_grad():
            noise = (c.target_noise * self.noise(*a.shape)).clamp(-c.target_noise_limit, c.target_noise_limit)
            a_next = (self.actor_target(s_next).tanh() + noise).clamp(-1, 1)
            value = twin_q(self.critic_target, s_next, a_next).amin(0)
            backup = r + c.discount * (1 - terminated) * value
        return q_loss(twin_q(self.critics, s, a), backup)

    def actor_loss(self, s: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
        """-lambda Q_1(s, pi(s)) + (pi(s) - a)^2 of each task; and that Q, (n, b)."""
        a_pi = self.actor(s).tanh()
        q = twin_q(self.critics, s, a_pi)[0]
        weight = self.config.alpha / q.detach().abs().mean(1)
        return ((a_pi - a).square().mean((1, 2)) - weight * q.mean(1)).sum(), q

    # ------------------------------------------------------------------ contract

    def learn(self, s, a, r, s_next, terminated):
        critic_loss = self.critic_loss(s, a, r, s_next, terminated)
        step(critic_loss, self.critic_optimizer)
        self.updates += 1
        metrics = {"critic_loss": critic_loss / len(s)}
        if self.updates % self.config.actor_interval:
            return metrics
        with frozen(self.critics):
            actor_loss, q = self.actor_loss(s, a)
            step(actor_loss, self.actor_optimizer)
        self.follow(self.critic_target, self.critics)
        self.follow(self.actor_target, self.actor)
        return metrics | {"actor_loss": actor_loss / len(s), "q_value": q.mean(), "q_value_max": q.max()}

    def act(self, observations):
        return self.actor(observations).tanh()

    def exported(self) -> dict[str, nn.Module]:
        return {"actor": self.actor}
