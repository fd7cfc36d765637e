"""MerPO: model-based offline meta-RL with regularised policy optimisation (Lin et al., ICLR 2022), in four stages.

1. *dynamics*: meta-models phi, by proximal meta-learning over the training tasks. A round takes `inner_steps` of
   gradient descent in every task, from phi and near it, and then phi moves towards the mean of the tasks' models.
2. *meta_policy*: RAC (`rac.py`) in every training task, and a meta-policy distilled from all their policies, near which
   they are kept.
3. *models*: the evaluated tasks' models, from phi and near it.
4. *train*: RAC in every evaluated task, its policy started from the meta-policy and kept near it.

There is no released program. Differences from the paper, and choices where its text was not to be had: those of
`rac.py`; all training tasks learn side by side at every update, none are drawn; the meta-policy starts at random and is
distilled by one step down the closed-form KL divergence per update, at logged states; the adaptive weight alpha
(MerPO-Adp, `merpo_adaptive`) follows a rule of our own. docs/algorithms/merpo.md lists them all.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from omrlbench.algorithms.algorithm import require
from omrlbench.algorithms.bcq import twin_q
from omrlbench.algorithms.networks import adam, squash, step
from omrlbench.algorithms.rac import RAC, RACConfig, pre_tanh_kl
from omrlbench.algorithms.single_task import EXPERT_DATA

ALPHA_RANGE = (0.1, 0.9)  # of the adaptive weight
ALPHA_RATE = 0.01  # of its running mean
SMALLEST_SPREAD = 1e-6  # of Q-values


@dataclass(frozen=True)
class MerPOConfig(RACConfig):
    dynamics_steps: int = 20_000
    inner_steps: int = 500  # K, from one meta-update of the models to the next
    outer_rate: float = 0.5  # xi
    meta_models: bool = True  # whether models start from meta-models, else (`rac`) from scratch
    meta_policy_steps: int = 50_000
    meta_policy: Literal["learned"] = "learned"
    adaptive_alpha: bool = False
    alpha_slope: float = 1.0  # kappa of the adaptive weight

    def __post_init__(self) -> None:
        super().__post_init__()
        steps = ("dynamics_steps", "inner_steps", "meta_policy_steps")
        require(self, lambda value: value >= 1, "at least 1", *steps)
        require(self, lambda value: value >= 0, "at least 0", "alpha_slope")
        require(self, lambda value: 0 <= value <= 1, "between 0 and 1", "outer_rate")
        rounds = f"a multiple of inner_steps, {self.inner_steps}"
        require(self, lambda value: value % self.inner_steps == 0, rounds, "dynamics_steps")


class MerPO(RAC):
    Config = MerPOConfig
    environment_values = dict.fromkeys(EXPERT_DATA, {"regularization_weight": 2.5})  # see the docs

    def build(self, n, s, a):
        super().build(n, s, a)
        tasks = tuple(range(self.problem.n_train_tasks))
        self.training = RAC(
            replace(self.problem, evaluated_tasks=tasks), self.config, self.generator.initial_seed(), str(self.device)
        )
        self.training.meta_policy = self.meta_policy
        self.meta_policy_optimizer = adam(self.meta_policy, self.config.task_learning_rate)
        if self.config.meta_models:
            self.meta_models = self.training.meta_models = self.new_models(1).requires_grad_(False)
        self.inner_step = 0  # of the current round

    # ------------------------------------------------------------------ stage 1: meta-models

    def learn_dynamics(self, s: Tensor, a: Tensor, r: Tensor, s_next: Tensor, terminated: Tensor) -> dict[str, Tensor]:
        """One inner step in every training task; at the end of a round phi moves, and the evaluated tasks follow it."""
        models, meta = self.training.models, self.meta_models
        if meta is not None and self.inner_step == 0:
            if not meta.standardized:
                meta.standardize(s, r, s_next, pooled=True)
            models.start_from(meta)
            self.training.model_optimizer.state.clear()
        metrics = self.training.learn_models(s, a, r, s_next, terminated)
        self.inner_step = (self.inner_step + 1) % self.config.inner_steps
        if meta is not None and self.inner_step == 0:
            meta.move_towards(models, self.config.outer_rate)
            self.models.start_from(meta)
        return metrics

    # ------------------------------------------------------------------ stage 2: meta-policy

    def learn_meta_policy(
        self, s: Tensor, a: Tensor, r: Tensor, s_next: Tensor, terminated: Tensor
    ) -> dict[str, Tensor]:
        """RAC in every training task, then one step of distillation; the evaluated tasks' policies follow."""
        metrics = self.training.learn_policies(s, a, r, s_next, terminated)
        if self.config.adaptive_alpha:
            self.update_alpha(self.training, s, a)
        loss = self.distillation_loss(s)
        step(loss, self.meta_policy_optimizer)
        with torch.no_grad():
            for own, shared in zip(self.actors.parameters(), self.meta_policy.parameters(), strict=True):
                own.copy_(shared)
        return metrics | {"distillation_loss": loss}

    def distillation_loss(self, s: Tensor) -> Tensor:
        """Mean KL(pi_n || meta-policy) of all training tasks n at their states (n, b, observation_dim)."""
        with torch.no_grad():
            mean, log_std = self.heads(self.training.actors, s)
        return pre_tanh_kl(mean, log_std, *self.meta_heads(s)).mean()

    # ------------------------------------------------------------------ adaptive alpha (MerPO-Adp)

    @torch.no_grad()
    def update_alpha(self, learner: RAC, s: Tensor, a: Tensor) -> None:
        """Let every task's alpha follow 1/2 - kappa (J(meta-policy) - J(data)) / spread, within ALPHA_RANGE.

        J is the mean of the task's critics at the logged states (n, b, observation_dim), spread their standard
        deviation at the logged actions: the better the meta-policy, the more it counts.
        """
        mean, log_std = self.meta_heads(s)
        a_meta, _ = squash(mean, log_std, self.noise(*mean.shape))
        q_data, q_meta = (twin_q(learner.critics, s, actions).amin(0) for actions in (a, a_meta))
        advantage = (q_meta - q_data).mean(1) / q_data.std(1).clamp(min=SMALLEST_SPREAD)
        learner.alpha.lerp_((0.5 - self.config.alpha_slope * advantage).clamp(*ALPHA_RANGE), ALPHA_RATE)

    def learn_policies(self, s, a, r, s_next, terminated):
        metrics = super().learn_policies(s, a, r, s_next, terminated)
        if self.config.adaptive_alpha:
            self.update_alpha(self, s, a)
            metrics["alpha"] = self.alpha.mean()
        return metrics

    # ------------------------------------------------------------------ contract

    @property
    def stages(self) -> dict[str, int]:
        c = self.config
        return {"dynamics": c.dynamics_steps, "meta_policy": c.meta_policy_steps} | super().stages

    @property
    def learns_from(self):
        return "train" if self.stage in ("dynamics", "meta_policy") else super().learns_from

    @property
    def tasks_per_batch(self) -> int:
        return (self.training if self.learns_from == "train" else super()).tasks_per_batch

    @property
    def transitions_per_task(self) -> int:
        return self.config.batch_size * (self.config.members if self.stage in ("dynamics", "models") else 1)

    @property
    def learned_parameters(self) -> int:
        return super().learned_parameters + self.training.learned_parameters

    def scale_learning_rates(self, factor: float) -> None:
        """Rounds of the meta-models keep the learning rate, so that the training tasks' models end as far from phi."""
        super().scale_learning_rates(factor)
        if self.stage == "meta_policy" or self.meta_models is None:
            self.training.scale_learning_rates(factor)

    def learn(self, s, a, r, s_next, terminated):
        learn = {"dynamics": self.learn_dynamics, "meta_policy": self.learn_meta_policy}.get(self.stage, super().learn)
        return learn(s, a, r, s_next, terminated)
