"""Implicit Q-learning (IQL; Kostrikov, Nair and Levine, ICLR 2022) on the dataset of each evaluated task.

A value network learns an upper expectile of the critics at logged actions, the critics learn from it, and so no action
outside the data is ever asked for its value. The actor imitates logged actions, weighted up exponentially by their
advantage. Its standard deviation does not depend on the state, as in the authors' program.

Differences from that program: rewards are not divided by the range of the data's returns, and the actor's learning
rate falls as all others do, where the budget says so, and not by a cosine.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from omrlbench.algorithms.algorithm import require
from omrlbench.algorithms.bcq import q_loss, twin_q
from omrlbench.algorithms.networks import adam, ensemble_mlp, step
from omrlbench.algorithms.single_task import EXPERT_DATA, SingleTask, SingleTaskConfig

MIN_LOG_STD, MAX_LOG_STD = -5.0, 2.0


@dataclass(frozen=True)
class SingleTaskIQLConfig(SingleTaskConfig):
    expectile: float = 0.7  # of the critics that the value is, tau in the paper
    beta: float = 3.0  # inverse temperature of the advantages' weights
    largest_weight: float = 100.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, lambda value: 0 < value < 1, "between 0 and 1", "expectile")
        require(self, lambda value: value >= 0, "at least 0", "beta")
        require(self, lambda value: value > 0, "above 0", "largest_weight")


class GaussianActors(nn.Module):
    """One Gaussian policy per task around tanh of a network, with a standard deviation of its own."""

    def __init__(self, n: int, s: int, hidden: tuple[int, ...], a: int):
        super().__init__()
        self.network = ensemble_mlp(n, s, hidden, a)
        self.log_std = nn.Parameter(torch.zeros(n, 1, a))

    def mean(self, s: Tensor) -> Tensor:
        return self.network(s).tanh()

    def log_density(self, s: Tensor, a: Tensor) -> Tensor:
        """Of the actions (n, b, action_dim), (n, b)."""
        log_std = self.log_std.clamp(MIN_LOG_STD, MAX_LOG_STD)
        squares = ((a - self.mean(s)) / log_std.exp()).square()
        return (-0.5 * squares - log_std - 0.5 * math.log(2 * math.pi)).sum(-1)


class SingleTaskIQL(SingleTask):
    Config = SingleTaskIQLConfig
    environment_values = dict.fromkeys(EXPERT_DATA, {"expectile": 0.9})

    def build(self, n, s, a):
        self.value = ensemble_mlp(n, s, self.hidden, 1).to(self.device)
        self.actor = GaussianActors(n, s, self.hidden, a).to(self.device)
        self.value_optimizer = adam(self.value, self.config.task_learning_rate)
        self.actor_optimizer = adam(self.actor, self.config.task_learning_rate)

    def v(self, s: Tensor) -> Tensor:
        """(n, b)."""
        return self.value(s).squeeze(-1)

    # ------------------------------------------------------------------ losses, summed over tasks

    def value_loss(self, s: Tensor, q: Tensor) -> Tensor:
        """Squares of u = q - V(s), weighted by the expectile where u > 0 and by the rest where not (Eq. 5)."""
        difference = q - self.v(s)
        weight = torch.where(difference > 0, self.config.expectile, 1 - self.config.expectile)
        return (weight * difference.square()).mean(1).sum()

    def actor_loss(self, s: Tensor, a: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
        """-exp(beta (q - V(s))) log pi(a | s), weights clipped (Eq. 7); and the advantages, (n, b)."""
        with torch.no_grad():
            advantage = q - self.v(s)
            weights = (self.config.beta * advantage).exp().clamp(max=self.config.largest_weight)
        return -(weights * self.actor.log_density(s, a)).mean(1).sum(), advantage

    def critic_loss(self, s: Tensor, a: Tensor, r: Tensor, s_next: Tensor, terminated: Tensor) -> Tensor:
        """Both critics against r + gamma V(s') (Eq. 6)."""
        with torch.no_grad():
            backup = r + self.config.discount * (1 - terminated) * self.v(s_next)
        return q_loss(twin_q(self.critics, s, a), backup)

    # ------------------------------------------------------------------ contract

    def learn(self, s, a, r, s_next, terminated):
        with torch.no_grad():
            q = twin_q(self.critic_target, s, a).amin(0)
        value_loss = self.value_loss(s, q)
        step(value_loss, self.value_optimizer)
        actor_loss, advantage = self.actor_loss(s, a, q)
        step(actor_loss, self.actor_optimizer)
        critic_loss = self.critic_loss(s, a, r, s_next, terminated)
        step(critic_loss, self.critic_optimizer)
        self.follow(self.critic_target, self.critics)
        losses = {"value_loss": value_loss, "actor_loss": actor_loss, "critic_loss": critic_loss}
        metrics = {"q_value": q.mean(), "q_value_max": q.max(), "advantage": advantage.mean()}
        return {name: loss / len(s) for name, loss in losses.items()} | metrics

    def act(self, observations):
        return self.actor.mean(observations)

    def exported(self) -> dict[str, nn.Module]:
        return {"actor": self.actor}
