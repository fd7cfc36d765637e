"""RAC, the meta-regularised actor-critic of MerPO (Lin et al., ICLR 2022), on the dataset of each evaluated task.

Per task an ensemble of probabilistic models learns the dynamics (`dynamics.py`), then actor and critics learn from the
data and from short rollouts of these models. The critics are conservative as COMBO's (Yu et al., NeurIPS 2021): they
value rollouts less than data. The actor maximises them and is kept near the data, by their likelihood, and near a
meta-policy, by a KL divergence; alpha says which of the two counts more.

Here the meta-policy is absent, so that alpha is 1 (`rac_no_meta`), or a random network (`rac_random`); `merpo.py`
learns one. Without regularisation of the actor (`regularization_weight` 0) this is COMBO (`single_task_combo`, with a
conservative weight of its own).

There is no released program. Where the paper's text was not to be had the choices are ours, see
docs/algorithms/merpo.md: rollouts are drawn afresh at every update, from the batch's states, and not from a buffer; one
elite model rolls out a task's batch; elites are chosen by their loss on transitions that are about to be learned from,
none are held out; models learn the probability of an end, which discounts the target.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from omrlbench.algorithms.algorithm import require
from omrlbench.algorithms.bcq import twin_q
from omrlbench.algorithms.dynamics import TaskModels
from omrlbench.algorithms.encoders import kl_divergence
from omrlbench.algorithms.networks import adam, ensemble_mlp, frozen, squash, squashed_log_density, step
from omrlbench.algorithms.single_task import SingleTask, SingleTaskConfig

Transitions = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]  # s, a, r, s' and the probability of an end, n tasks


@dataclass(frozen=True)
class RACConfig(SingleTaskConfig):
    # models of the dynamics; sizes are those of COMBO
    model_steps: int = 10_000  # updates of the models before the actor-critic begins
    model_width: int = 200
    model_layers: int = 4
    model_learning_rate: float = 1e-3
    members: int = 7
    elites: int = 5
    proximal_weight: float = 1e-2  # eta, of the squared distance to meta-models, where there are any

    # actor-critic
    rollout_length: int = 5  # h; COMBO: 1 or 5
    data_fraction: float = 0.5  # f, the data's weight in the Bellman error; the rollouts have the rest
    conservative_weight: float = 0.5  # beta; COMBO: 0.5, 1 or 5
    regularization_weight: float = 1.0  # lambda
    meta_policy: Literal["none", "random"] = "none"
    alpha: float = 0.4  # share of the data in the actor's regularisation, the meta-policy has the rest; without one, 1
    entropy_temperature: float = 0.01
    min_log_std: float = -5.0
    max_log_std: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, lambda value: value >= 1, "at least 1", "model_steps", "model_width", "model_layers", "elites")
        require(self, lambda value: value >= self.elites, f"at least elites, {self.elites}", "members")
        within = f"between 1 and batch_size, {self.batch_size}"
        require(self, lambda value: 1 <= value <= self.batch_size, within, "rollout_length")
        require(self, lambda value: value > 0, "above 0", "model_learning_rate")
        weights = ("proximal_weight", "conservative_weight", "regularization_weight", "entropy_temperature")
        require(self, lambda value: value >= 0, "at least 0", *weights)
        require(self, lambda value: 0 <= value <= 1, "between 0 and 1", "data_fraction", "alpha")
        require(self, lambda value: value < self.max_log_std, "below max_log_std", "min_log_std")


class RAC(SingleTask):
    Config = RACConfig

    def build(self, n, s, a):
        self.models = self.new_models(n)
        self.actors = self.new_policies(n)
        self.meta_policy = self.new_policies(1) if self.config.meta_policy != "none" else None
        self.meta_models: TaskModels | None = None  # that the tasks' models start from and stay near
        if self.config.meta_policy == "random":
            self.meta_policy.requires_grad_(False)
        self.model_optimizer = adam(self.models, self.config.model_learning_rate)
        self.actor_optimizer = adam(self.actors, self.config.task_learning_rate)
        self.alpha = torch.full((n,), 1.0 if self.meta_policy is None else self.config.alpha, device=self.device)

    def new_models(self, n: int) -> TaskModels:
        c, p = self.config, self.problem
        hidden = (c.model_width,) * c.model_layers
        return TaskModels(n, c.members, p.observation_dim, p.action_dim, hidden).to(self.device)

    def new_policies(self, n: int) -> nn.Sequential:
        return ensemble_mlp(n, self.problem.observation_dim, self.hidden, 2 * self.problem.action_dim).to(self.device)

    # ------------------------------------------------------------------ models, summed over tasks and members

    def model_loss(self, s: Tensor, a: Tensor, r: Tensor, s_next: Tensor, terminated: Tensor) -> tuple[Tensor, Tensor]:
        """The members' losses, with eta |theta - phi|^2 where there are meta-models; and the losses alone, (n, m)."""
        errors = self.models.loss(s, a, r, s_next, terminated)
        if self.meta_models is None:
            return errors.sum(), errors
        return errors.sum() + self.config.proximal_weight * self.models.distance(self.meta_models), errors

    def learn_models(self, s: Tensor, a: Tensor, r: Tensor, s_next: Tensor, terminated: Tensor) -> dict[str, Tensor]:
        if not self.models.standardized:
            self.models.standardize(s, r, s_next, pooled=False)
        loss, errors = self.model_loss(s, a, r, s_next, terminated)
        self.models.remember(errors)
        step(loss, self.model_optimizer)
        return {"model_loss": errors.mean()}

    # ------------------------------------------------------------------ actor-critic, losses summed over tasks

    def heads(self, policies: nn.Module, s: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log of the standard deviation before tanh, of `policies` at (n, b, observation_dim)."""
        mean, log_std = policies(s).chunk(2, -1)
        return mean, log_std.clamp(self.config.min_log_std, self.config.max_log_std)

    def sample_action(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """A reparameterised action (n, b, action_dim) and its log-density (n, b)."""
        mean, log_std = self.heads(self.actors, s)
        return squash(mean, log_std, self.noise(*mean.shape))

    @torch.no_grad()
    def roll_out(self, s: Tensor) -> Transitions:
        """The transitions of `rollout_length` steps of the policies in the models, from (n, b, observation_dim)."""
        places, steps = self.models.elites(self.config.elites, self.generator), []
        for _ in range(self.config.rollout_length):
            a, _ = self.sample_action(s)
            s_next, r, end = self.models.sample(places, s, a, self.noise(*s.shape[:2], s.shape[2] + 1))
            steps.append((s, a, r, s_next, end))
            s = s_next
        s, a, r, s_next, end = (torch.cat(column, 1) for column in zip(*steps, strict=True))
        return s, a, r, s_next, end

    def critic_loss(self, data: Transitions, rollouts: Transitions) -> Tensor:
        """beta (E_rollouts[Q] - E_data[Q]) + 1/2 E[(Q - r - gamma (1 - end) Q_target(s', a'))^2], for both critics.

        The second mean gives the data the weight f and the rollouts the rest; Q_target is the critics' minimum.
        """
        c = self.config
        s, a, r, s_next, end = (torch.cat(pair, 1) for pair in zip(data, rollouts, strict=True))
        with torch.no_grad():
            a_next, _ = self.sample_action(s_next)
            backup = r + c.discount * (1 - end) * twin_q(self.critic_target, s_next, a_next).amin(0)
        sizes = [data[0].shape[1], rollouts[0].shape[1]]
        q = twin_q(self.critics, s, a)
        q_data, q_rollouts = (part.mean(-1) for part in q.split(sizes, -1))
        error_data, error_rollouts = (part.mean(-1) for part in (q - backup).square().split(sizes, -1))
        bellman = c.data_fraction * error_data + (1 - c.data_fraction) * error_rollouts
        return (c.conservative_weight * (q_rollouts - q_data) + 0.5 * bellman).sum()

    def actor_loss(self, s: Tensor, a: Tensor, s_rollouts: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """-E[Q] - lambda alpha E_data[log pi(a|s)] + lambda (1 - alpha) E[KL(pi || meta-policy)], and parts of it.

        Unmarked means are over the rollouts' states, and actions of the policy there; its entropy there is rewarded.
        """
        c, rows = self.config, s.shape[1]
        mean, log_std = self.heads(self.actors, torch.cat([s, s_rollouts], 1))
        log_likelihood = squashed_log_density(mean[:, :rows], log_std[:, :rows], a).mean(1)
        mean, log_std = mean[:, rows:], log_std[:, rows:]
        a_pi, log_pi = squash(mean, log_std, self.noise(*mean.shape))
        q = twin_q(self.critics, s_rollouts, a_pi).amin(0)
        loss = (c.entropy_temperature * log_pi - q).mean(1)
        loss = loss - c.regularization_weight * self.alpha * log_likelihood
        parts = {"log_likelihood": log_likelihood.mean(), "q_value": q.mean(), "q_value_max": q.max()}
        if self.meta_policy is not None:
            with torch.no_grad():
                meta = self.meta_heads(s_rollouts)
            divergence = pre_tanh_kl(mean, log_std, *meta).mean(1)
            loss = loss + c.regularization_weight * (1 - self.alpha) * divergence
            parts["divergence"] = divergence.mean()
        return loss.sum(), parts

    def meta_heads(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """`heads` of the meta-policy, the same for all tasks."""
        mean, log_std = self.heads(self.meta_policy, s.flatten(0, 1)[None])
        return mean[0].unflatten(0, s.shape[:2]), log_std[0].unflatten(0, s.shape[:2])

    def learn_policies(self, s: Tensor, a: Tensor, r: Tensor, s_next: Tensor, terminated: Tensor) -> dict[str, Tensor]:
        rollouts = self.roll_out(s[:, : self.config.batch_size // self.config.rollout_length])
        critic_loss = self.critic_loss((s, a, r, s_next, terminated), rollouts)
        step(critic_loss, self.critic_optimizer)
        with frozen(self.critics):
            actor_loss, parts = self.actor_loss(s, a, rollouts[0])
            step(actor_loss, self.actor_optimizer)
        self.follow(self.critic_target, self.critics)
        losses = {"critic_loss": critic_loss / len(s), "actor_loss": actor_loss / len(s)}
        return losses | parts | {"rollout_reward": rollouts[2].mean(), "reward": r.mean()}

    # ------------------------------------------------------------------ contract

    @property
    def stages(self) -> dict[str, int]:
        return {"models": self.config.model_steps}

    @property
    def transitions_per_task(self) -> int:
        """Every member of the models learns from transitions of its own."""
        return self.config.batch_size * (self.config.members if self.stage == "models" else 1)

    def learn(self, s, a, r, s_next, terminated):
        learn = self.learn_models if self.stage == "models" else self.learn_policies
        return learn(s, a, r, s_next, terminated)

    def act(self, observations):
        return self.heads(self.actors, observations)[0].tanh()

    def exported(self) -> dict[str, nn.Module]:
        return {"actors": self.actors}


def pre_tanh_kl(mean: Tensor, log_std: Tensor, other_mean: Tensor, other_log_std: Tensor) -> Tensor:
    """KL divergence of policies' Gaussians before tanh, which is that of the policies: (n, b)."""
    return kl_divergence(mean, (2 * log_std).exp(), other_mean, (2 * other_log_std).exp())
