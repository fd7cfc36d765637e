"""BRAC (Wu et al. 2019) as FOCAL uses it (`brac.py`), without z, on the dataset of each evaluated task.

SAC from logged data whose policy is kept near the data's: a learned KL divergence, weighted by `alpha`, is in the
actor's loss, and with the value penalty in the critics' target too. Formulas and values are those of FOCAL here, so
that beside FOCAL's row stands what its learner makes of the test task's own data.

Differences from FOCAL's learner: no z, two hidden layers in place of three, the learning rate of the single-task rows,
a larger fixed weight of the divergence, and policy regularisation alone everywhere.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from omrlbench.algorithms.algorithm import require
from omrlbench.algorithms.bcq import q_loss, twin_q
from omrlbench.algorithms.brac import ENVIRONMENT_VALUES
from omrlbench.algorithms.divergences import dual_kl, gradient_penalty, policy_kl
from omrlbench.algorithms.networks import adam, ensemble_mlp, frozen, squash, step
from omrlbench.algorithms.single_task import SingleTask, SingleTaskConfig


@dataclass(frozen=True)
class SingleTaskBRACConfig(SingleTaskConfig):
    discriminator_learning_rate: float = 1e-3
    discriminator_steps: int = 3  # per update of the rest, each on transitions of its own
    discriminator_penalty_weight: float = 5.0  # of the gradient's squared excess over 1
    regularization: Literal["policy", "both"] = "both"  # both: a value penalty too
    alpha: float = 1.0  # weight of the divergence
    entropy_temperature: float = 0.2
    min_log_std: float = -20.0
    max_log_std: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, lambda value: value > 0, "above 0", "discriminator_learning_rate")
        weights = ("alpha", "entropy_temperature", "discriminator_penalty_weight")
        require(self, lambda value: value >= 0, "at least 0", *weights)
        require(self, lambda value: value >= 1, "at least 1", "discriminator_steps")
        require(self, lambda value: value < self.max_log_std, "below max_log_std", "min_log_std")


class SingleTaskBRAC(SingleTask):
    Config = SingleTaskBRACConfig
    environment_values = {
        env: {name: value for name, value in values.items() if name in vars(SingleTaskBRACConfig())}
        | {"regularization": "policy", "alpha": max(30.0, values["alpha"])}  # one task's data ask for it, see the docs
        for env, values in ENVIRONMENT_VALUES.items()
    }

    def build(self, n, s, a):
        c = self.config
        self.actor = ensemble_mlp(n, s, self.hidden, 2 * a).to(self.device)
        self.discriminator = ensemble_mlp(n, s + a, self.hidden, 1).to(self.device)
        self.actor_optimizer = adam(self.actor, c.task_learning_rate)
        self.discriminator_optimizer = adam(self.discriminator, c.discriminator_learning_rate)

    def sample_action(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """A reparameterised action (n, b, action_dim) and its log-density (n, b)."""
        mean, log_std = self.actor(s).chunk(2, -1)
        log_std = log_std.clamp(self.config.min_log_std, self.config.max_log_std)
        return squash(mean, log_std, self.noise(*mean.shape))

    # ------------------------------------------------------------------ losses, summed over tasks

    def discriminator_loss(self, s: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
        """Penalty at actions between the policy's and the data's, minus the divergence; and that, the tasks' mean."""
        with torch.no_grad():
            a_pi, _ = self.sample_action(s)
        mix = torch.rand(*a.shape[:2], 1, generator=self.generator, device=self.device)
        z = s[..., :0]
        excess = gradient_penalty(self.discriminator, s, a_pi + mix * (a - a_pi), z)
        divergence = dual_kl(self.discriminator, s, a_pi, a, z).mean()
        return len(s) * (self.config.discriminator_penalty_weight * excess - divergence), divergence

    def critic_loss(self, s: Tensor, a: Tensor, r: Tensor, s_next: Tensor, terminated: Tensor) -> Tensor:
        """FOCAL's Eq. 27 with the twin minimum and the entropy bonus of SAC."""
        c = self.config
        with torch.no_grad():
            a_next, log_pi = self.sample_action(s_next)
            value = twin_q(self.critic_target, s_next, a_next).amin(0) - c.entropy_temperature * log_pi
            if c.regularization == "both":
                value = value - c.alpha * policy_kl(self.discriminator, s_next, a_next, s_next[..., :0])
            backup = r + c.discount * (1 - terminated) * value
        return q_loss(twin_q(self.critics, s, a), backup)

    def actor_loss(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """FOCAL's Eq. 28 with the entropy bonus of SAC; and the critics' minimum, (n, b)."""
        c = self.config
        a_pi, log_pi = self.sample_action(s)
        q = twin_q(self.critics, s, a_pi).amin(0)
        divergence = policy_kl(self.discriminator, s, a_pi, s[..., :0])
        return (c.entropy_temperature * log_pi - q + c.alpha * divergence).mean(1).sum(), q

    # ------------------------------------------------------------------ contract

    @property
    def transitions_per_task(self) -> int:
        return self.config.batch_size * self.config.discriminator_steps

    def learn(self, s, a, r, s_next, terminated):
        draws = [column.split(self.config.batch_size, 1) for column in (s, a, r, s_next, terminated)]
        for states, actions in zip(*draws[:2], strict=True):
            discriminator_loss, divergence = self.discriminator_loss(states, actions)
            step(discriminator_loss, self.discriminator_optimizer)
        s, a, r, s_next, terminated = (draw[0] for draw in draws)
        critic_loss = self.critic_loss(s, a, r, s_next, terminated)
        step(critic_loss, self.critic_optimizer)
        with frozen(self.critics, self.discriminator):
            actor_loss, q = self.actor_loss(s)
            step(actor_loss, self.actor_optimizer)
        self.follow(self.critic_target, self.critics)
        losses = {"discriminator_loss": discriminator_loss, "critic_loss": critic_loss, "actor_loss": actor_loss}
        metrics = {"divergence": divergence, "q_value": q.mean(), "q_value_max": q.max()}
        return {name: loss / len(s) for name, loss in losses.items()} | metrics

    def act(self, observations):
        return self.actor(observations).chunk(2, -1)[0].tanh()

    def exported(self) -> dict[str, nn.Module]:
        return {"actor": self.actor}
